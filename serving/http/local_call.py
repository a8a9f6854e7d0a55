"""LocalCall: a call of one of the server's own RPC methods, without a connection.

REST asks the handlers that gRPC asks, in the same order. So a right, a limit or a refusal holds for both transports.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import grpc

from nested_sparse.errors import NotFoundError
from nested_sparse.proto import messages

from ..fault import EndedError, Ending

Trailers = tuple[tuple[str, str | bytes], ...]
Metadata = Sequence[tuple[str, str | bytes]]


class _Details(NamedTuple):
    """The facts of a call that gRPC tells a handler."""

    method: str
    invocation_metadata: Metadata


@dataclass(slots=True)
class LocalContext:
    """The context of the call, as far as the methods use gRPC's.

    peer_name: the client's address as gRPC writes it. certificate: of the client, as Python's ssl gives it; None: none.
    """

    peer_name: str
    metadata: Metadata
    certificate: Mapping[str, Any] | None = None
    status: grpc.StatusCode | None = None
    message: str = ""
    trailers: Trailers = ()
    callbacks: list[Callable[[Any], object]] = field(default_factory=list)

    def peer(self) -> str:
        """As gRPC's."""
        return self.peer_name

    def invocation_metadata(self) -> Metadata:
        """As gRPC's."""
        return self.metadata

    def time_remaining(self) -> float | None:
        """As gRPC's: HTTP has no deadline of its own."""
        return None

    def auth_context(self) -> dict[str, list[bytes]]:
        """As gRPC's: the names in the client's certificate."""
        given = self.certificate or {}
        common = [value for part in given.get("subject", ()) for key, value in part if key == "commonName"]
        named = {
            "x509_common_name": common,
            "x509_subject_alternative_name": [name for _, name in given.get("subjectAltName", ())],
        }
        return {key: [name.encode() for name in names] for key, names in named.items() if names}

    def set_code(self, code: grpc.StatusCode) -> None:
        """As gRPC's."""
        self.status = code

    def set_details(self, details: str) -> None:
        """As gRPC's."""
        self.message = details

    def set_trailing_metadata(self, metadata: Trailers) -> None:
        """As gRPC's."""
        self.trailers = tuple(metadata)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """As gRPC's."""
        self.callbacks.append(callback)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Trailers = ()) -> NoReturn:
        """As gRPC's."""
        raise EndedError(Ending(code, details, tuple(trailing_metadata)))


class LocalCall:
    """One call of `method`, a name as "ModelInfer". Raises NotFoundError where the server has no such method.

    handlers: gRPC's generic handlers of the server, in their order.
    """

    def __init__(self, handlers: Sequence[Any], method: str, context: LocalContext) -> None:
        details = _Details(f"/{messages.SERVICE_NAME}/{method}", context.metadata)
        answers = (handler.service(details) for handler in handlers)
        self._handler = next((answer for answer in answers if answer is not None), None)
        self._context = context
        if self._handler is None:
            raise NotFoundError(f"This server has no {method}.")

    @property
    def refused(self) -> bool:
        """Whether the call ends without its request being read."""
        return self._handler.unary_unary is None  # type: ignore[union-attr]  # grpc has no types

    @property
    def headers(self) -> dict[str, str]:
        """The trailing metadata of a call that has ended well, as headers; bytes in base64, as gRPC sends them."""
        return {
            name: value if isinstance(value, str) else base64.b64encode(value).decode()
            for name, value in self._context.trailers
        }

    async def run(self, data: bytes) -> Any:
        """The response to the serialised request `data`, as the method returns it. Raises EndedError."""
        handler: Any = self._handler
        try:
            if self.refused:
                answer = await handler.stream_stream(None, self._context)
            else:
                answer = await handler.unary_unary(data, self._context)
        finally:
            for callback in self._context.callbacks:
                callback(self._context)
        if self._context.status not in (None, grpc.StatusCode.OK):
            raise EndedError(Ending(self._context.status, self._context.message, self._context.trailers))
        return answer
