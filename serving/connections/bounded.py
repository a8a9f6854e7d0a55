"""BoundedServices: a limit on the size of requests to gRPC's own services, health and reflection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc

from nested_sparse.errors import InputError, TooLargeError

from ..fault import Ending
from ..protocol.convert import read_message
from ..protocol.inflate import inflated
from ..protocol.wire import HEADER_BYTES
from .calls import Calls

Parse = Callable[[bytes], Any]


class BoundedServices:
    """Stands for a server where gRPC's own services are added to it, and reads their requests in place of gRPC.

    gRPC would parse up to the largest model's request. A request of more than `limit` bytes, or one that cannot be
    parsed, ends in a status, without a line in the log. calls: counts each call until it has ended.

    It is no interceptor: gRPC would ask it for every call of every service, inferences included.
    """

    def __init__(self, server: Any, calls: Calls, limit: int = HEADER_BYTES) -> None:
        self._server = server
        self._calls = calls
        self._limit = limit

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """As a server's."""
        self._server.add_generic_rpc_handlers(tuple(_Bounded(each, self.bounded) for each in handlers))

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """As a server's: the same handlers, in a form that grpc.aio does not use."""

    def bounded(self, handler: Any) -> Any:
        """A handler like `handler` with a limit, for requests and responses of one kind."""
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
        raise TypeError("a service that takes a stream and gives one answer cannot be bounded")

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


class _Bounded(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    def __init__(self, handler: Any, bounded: Callable[[Any], Any]) -> None:
        self._handler = handler
        self._bounded = bounded

    def service(self, details: Any) -> Any:
        handler = self._handler.service(details)
        return None if handler is None else self._bounded(handler)
