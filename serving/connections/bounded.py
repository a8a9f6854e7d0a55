"""BoundedServices: a limit on the size of requests to gRPC's own services, health and reflection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from nested_sparse.errors import InputError, TooLargeError

from ..fault import Ending
from ..protocol.convert import read_message
from ..protocol.inflate import inflated
from ..protocol.wire import HEADER_BYTES
from .calls import Calls

Parse = Callable[[bytes], Any]


class BoundedServices(aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Reads the requests of handlers that leave it to gRPC, which would parse up to the largest model's request.

    A request of more than `limit` bytes, or one that cannot be parsed, ends in a status, without a line in
    the log. Handlers that take bytes, such as our own, are not changed. calls: counts each call until it has ended.
    """

    def __init__(self, calls: Calls, limit: int = HEADER_BYTES) -> None:
        self._calls = calls
        self._limit = limit

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """gRPC's hook: the handler of a call."""
        handler = await continuation(details)
        if handler is None or handler.request_deserializer is None:
            return handler
        parse, serialize = handler.request_deserializer, handler.response_serializer
        if handler.unary_unary is not None:
            method = self._of_one(handler.unary_unary, parse)
            return grpc.unary_unary_rpc_method_handler(method, response_serializer=serialize)
        if handler.unary_stream is not None:
            method = self._of_one(handler.unary_stream, parse)
            return grpc.unary_stream_rpc_method_handler(method, response_serializer=serialize)
        if handler.stream_stream is not None:
            stream = self._of_many(handler.stream_stream, parse)
            return grpc.stream_stream_rpc_method_handler(stream, response_serializer=serialize)
        return handler

    def _of_one(self, method: Callable[[Any, Any], Awaitable[Any]], parse: Parse) -> Callable[[bytes, Any], Any]:
        async def bounded(data: bytes, context: Any) -> Any:
            self._calls.begin(context)
            return await method(await self._read(data, parse, context), context)

        return bounded

    def _of_many(self, method: Callable[[Any, Any], AsyncIterator[Any]], parse: Parse) -> Callable[[Any, Any], Any]:
        async def bounded(stream: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
            self._calls.begin(context)
            requests = (await self._read(data, parse, context) async for data in stream)
            async for response in method(requests, context):
                yield response

        return bounded

    async def _read(self, data: bytes, parse: Parse, context: Any) -> Any:
        self._calls.took(context, len(data))
        try:
            return read_message(await inflated(data, self._limit), parse, self._limit)
        except (InputError, TooLargeError) as error:
            ending = Ending.of(error)
        await ending.send(context)
