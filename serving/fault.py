"""Fault: which gRPC status an error becomes, and what the metrics call it. The one table."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

import grpc

from nested_sparse.errors import (
    DeadlineError,
    InputError,
    LevelError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)

PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""Trailing metadata by which gRPC clients time their retry (gRFC A6): whole milliseconds as ASCII."""


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
    NotFoundError: Fault("not_found", grpc.StatusCode.NOT_FOUND),
    InputError: Fault("invalid", grpc.StatusCode.INVALID_ARGUMENT),
    LevelError: Fault("invalid", grpc.StatusCode.INVALID_ARGUMENT),
    asyncio.CancelledError: Fault("cancelled", grpc.StatusCode.CANCELLED),
}
INTERNAL = Fault("error", grpc.StatusCode.INTERNAL)


def fault_of(error: BaseException) -> Fault:
    """The fault of an error's class or its nearest base; INTERNAL for what nobody foresaw."""
    return next((FAULTS[kind] for kind in type(error).__mro__ if kind in FAULTS), INTERNAL)


def message_of(error: Exception) -> str:
    """What the client reads. The retry delay is in the text too: tritonclient drops trailing metadata."""
    if isinstance(error, OverloadedError):
        return f"{error}; retry after {_whole_ms(error.retry_after_ms)} ms"
    return str(error)


def trailers_of(error: Exception) -> tuple[tuple[str, str], ...]:
    """Trailing metadata that goes with the error."""
    if isinstance(error, OverloadedError):
        return ((PUSHBACK_KEY, str(_whole_ms(error.retry_after_ms))),)
    return ()


def _whole_ms(delay_ms: float) -> int:
    return max(0, math.ceil(delay_ms)) if math.isfinite(delay_ms) else 0
