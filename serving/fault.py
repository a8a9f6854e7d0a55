"""Fault: which gRPC status an error becomes, and what the metrics call it. The one table."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.rpc import error_details_pb2, status_pb2

from nested_sparse.errors import (
    DeadlineError,
    InputError,
    LevelError,
    NotFoundError,
    OverloadedError,
    ServingError,
    StuckError,
    TooLargeError,
    UnavailableError,
)
from nested_sparse.excerpt import excerpt

MESSAGE_BYTES = 1024
"""Of a status message as it is sent. Trailing metadata, which holds it up to twice, may have 8 kB: a client makes an
error of its own of more."""
PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""Trailing metadata by which gRPC clients time their retry (gRFC A6): whole milliseconds as ASCII."""
NO_RETRY = "-1"
"""As a pushback: the same request would fail again."""
DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata with a serialised google.rpc.Status. OTLP's clients and others retry RESOURCE_EXHAUSTED only where
it holds a RetryInfo."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What becomes of one class of errors.

    outcome: its label in the metrics.
    status: its gRPC status code.
    """

    outcome: str
    status: grpc.StatusCode


FAULTS: dict[type[BaseException], Fault] = {
    OverloadedError: Fault("shed", grpc.StatusCode.RESOURCE_EXHAUSTED),
    DeadlineError: Fault("expired", grpc.StatusCode.DEADLINE_EXCEEDED),
    UnavailableError: Fault("unavailable", grpc.StatusCode.UNAVAILABLE),
    StuckError: Fault("stuck", grpc.StatusCode.UNAVAILABLE),
    TooLargeError: Fault("invalid", grpc.StatusCode.RESOURCE_EXHAUSTED),
    MemoryError: Fault("out_of_memory", grpc.StatusCode.RESOURCE_EXHAUSTED),
    NotFoundError: Fault("not_found", grpc.StatusCode.NOT_FOUND),
    InputError: Fault("invalid", grpc.StatusCode.INVALID_ARGUMENT),
    LevelError: Fault("invalid", grpc.StatusCode.INVALID_ARGUMENT),
    asyncio.CancelledError: Fault("cancelled", grpc.StatusCode.CANCELLED),
}
INTERNAL = Fault("error", grpc.StatusCode.INTERNAL)


def fault_of(error: BaseException) -> Fault:
    """The fault of an error's class or its nearest base; INTERNAL for what nobody foresaw."""
    return next((FAULTS[kind] for kind in type(error).__mro__ if kind in FAULTS), INTERNAL)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call ends without a result: the one way by which a status leaves the server, its text bounded.

    It does not hold the error, whose traceback would keep the request alive.
    """

    status: grpc.StatusCode
    message: str
    trailers: tuple[tuple[str, str | bytes], ...]

    @classmethod
    def of(cls, error: BaseException, message: str = "") -> Ending:
        """The error's. message: what the client reads in place of the error's own text."""
        return cls(fault_of(error).status, on_the_wire(message) if message else message_of(error), trailers_of(error))

    async def send(self, context: Any) -> NoReturn:
        """Abort the call that has this context of gRPC's."""
        await context.abort(self.status, self.message, self.trailers)
        raise AssertionError("abort always raises")


def message_of(error: BaseException) -> str:
    """What the client reads, in a line of at most MESSAGE_BYTES.

    The retry delay is in the text too: tritonclient drops trailing metadata.
    """
    if isinstance(error, OverloadedError):
        return on_the_wire(f"{error}", f"; retry after {_whole_ms(error.retry_after_ms)} ms")
    if isinstance(error, MemoryError) and not isinstance(error, ServingError):
        reason = str(error) or "the server could not hold this request"
        return on_the_wire(f"out of memory: {reason}", "; send a smaller batch")
    return on_the_wire(str(error))


def on_the_wire(text: str, end: str = "") -> str:
    """`text` with `end`, in one printable line that takes at most MESSAGE_BYTES as gRPC sends it; text is cut, not end.

    gRPC writes a byte that is not printable ASCII as three.
    """
    limit = MESSAGE_BYTES
    while True:
        shown = excerpt(text, limit) + end
        size = sum(1 if 32 <= byte < 127 and byte != ord("%") else 3 for byte in shown.encode())
        if size <= MESSAGE_BYTES:
            return shown
        limit = min(limit - 1, limit * MESSAGE_BYTES // size)


def trailers_of(error: BaseException) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata that goes with the error: when to retry, for gRPC's clients and for those of google.rpc."""
    if isinstance(error, OverloadedError):
        delay_ms = _whole_ms(error.retry_after_ms)
        return (PUSHBACK_KEY, str(delay_ms)), (DETAILS_KEY, _retry_details(message_of(error), delay_ms))
    if isinstance(error, MemoryError | TooLargeError):
        return ((PUSHBACK_KEY, NO_RETRY),)
    return ()


def _retry_details(message: str, delay_ms: int) -> bytes:
    code: int = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    status = status_pb2.Status(code=code, message=message)
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(delay_ms)
    status.details.add().Pack(retry)
    serialized: bytes = status.SerializeToString()
    return serialized


def _whole_ms(delay_ms: float) -> int:
    return max(0, math.ceil(delay_ms)) if math.isfinite(delay_ms) else 0
