"""Fault: the gRPC status of each error and its name in the metrics. There is one table of both."""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.rpc import error_details_pb2, status_pb2

from nested_sparse.errors import (
    AccessError,
    DeadlineError,
    ExistsError,
    InputError,
    LevelError,
    NotFoundError,
    OverloadedError,
    RepositoryError,
    SequenceError,
    ServingError,
    StuckError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from nested_sparse.excerpt import excerpt

MESSAGE_BYTES = 1024
"""Limit of a status message as it is sent. Trailing metadata holds the message up to twice and may have 8 kB; a client
replaces larger metadata by an error of its own."""
PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""Trailing metadata by which gRPC clients time their retry (gRFC A6): whole milliseconds as ASCII."""
NO_RETRY = "-1"
"""Value of the pushback where the same request would fail again."""
DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata with a serialised google.rpc.Status. Some clients, OTLP's among them, retry RESOURCE_EXHAUSTED only
where it holds a RetryInfo."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fault:
    """The outcome of one class of errors.

    outcome: label in the metrics.
    status: gRPC status code.
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
    UnsupportedError: Fault("invalid", grpc.StatusCode.UNIMPLEMENTED),
    SequenceError: Fault("invalid", grpc.StatusCode.FAILED_PRECONDITION),
    ExistsError: Fault("invalid", grpc.StatusCode.ALREADY_EXISTS),
    NotFoundError: Fault("not_found", grpc.StatusCode.NOT_FOUND),
    RepositoryError: Fault("unavailable", grpc.StatusCode.FAILED_PRECONDITION),
    AccessError: Fault("forbidden", grpc.StatusCode.PERMISSION_DENIED),
    UnauthenticatedError: Fault("unauthenticated", grpc.StatusCode.UNAUTHENTICATED),
    InputError: Fault("invalid", grpc.StatusCode.INVALID_ARGUMENT),
    LevelError: Fault("invalid", grpc.StatusCode.INVALID_ARGUMENT),
    asyncio.CancelledError: Fault("cancelled", grpc.StatusCode.CANCELLED),
}
INTERNAL = Fault("error", grpc.StatusCode.INTERNAL)
HTTP_STATUSES: dict[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
"""HTTP status of each gRPC status over REST; 500 for all others."""


def fault_of(error: BaseException) -> Fault:
    """The fault of an error's class or of its nearest base in the table; INTERNAL for all other errors."""
    return next((FAULTS[kind] for kind in type(error).__mro__ if kind in FAULTS), INTERNAL)


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a call without a result. Every status leaves the server this way, with a bounded text.

    It does not hold the error: the traceback would keep the request in memory.
    """

    status: grpc.StatusCode
    message: str
    trailers: tuple[tuple[str, str | bytes], ...]

    @classmethod
    def of(cls, error: BaseException, message: str = "") -> Ending:
        """The ending for `error`. message: text for the client in place of the error's own."""
        return cls(fault_of(error).status, on_the_wire(message) if message else message_of(error), trailers_of(error))

    async def send(self, context: Any) -> NoReturn:
        """Abort the call with this gRPC context."""
        await context.abort(self.status, self.message, self.trailers)
        raise AssertionError("abort always raises")


class EndedError(Exception):
    """The call ended with a status other than OK, and that status is known: another part of the server has made it."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.message)
        self.ending = ending


def ending_of(error: Exception, doing: str) -> Ending:
    """The ending of a request that `error` ended. An unforeseen error is INTERNAL with an id; its details are logged.

    doing: name of the method. Called while `error` is handled, for its traceback.
    """
    if isinstance(error, EndedError):
        return error.ending
    if fault_of(error) is not INTERNAL:
        return Ending.of(error)
    incident = uuid.uuid4().hex[:12]
    log.exception("%s failed, incident %s", doing, incident)
    return Ending.of(error, f"The server failed on this request; its log has the details under incident {incident}.")


def message_of(error: BaseException) -> str:
    """The text for the client, one line of at most MESSAGE_BYTES.

    It includes the retry delay, because tritonclient drops trailing metadata.
    """
    if isinstance(error, OverloadedError) and error.retry_after_ms is not None:
        return on_the_wire(f"{error}", f"; retry after {_whole_ms(error.retry_after_ms)} ms")
    if isinstance(error, MemoryError) and not isinstance(error, ServingError):
        reason = str(error) or "the server could not hold this request"
        return on_the_wire(f"out of memory: {reason}", "; send a smaller batch")
    return on_the_wire(str(error))


def on_the_wire(text: str, end: str = "") -> str:
    """`text` and `end` in one printable line of at most MESSAGE_BYTES as gRPC sends it. Only `text` is cut.

    gRPC sends three bytes for each byte that is not printable ASCII.
    """
    limit = MESSAGE_BYTES
    while True:
        shown = excerpt(text, limit) + end
        size = sum(1 if 32 <= byte < 127 and byte != ord("%") else 3 for byte in shown.encode())
        if size <= MESSAGE_BYTES:
            return shown
        limit = min(limit - 1, limit * MESSAGE_BYTES // size)


def trailers_of(error: BaseException) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata of the error: the time to retry, for gRPC's clients and for those of google.rpc."""
    if isinstance(error, OverloadedError) and error.retry_after_ms is not None:
        delay_ms = _whole_ms(error.retry_after_ms)
        return (PUSHBACK_KEY, str(delay_ms)), (DETAILS_KEY, _retry_details(message_of(error), delay_ms))
    if isinstance(error, MemoryError | TooLargeError | OverloadedError):
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
