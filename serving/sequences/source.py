"""StreamSource: the stream that a request came in. A client writes into it before it has seen the errors of others."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class StreamSource:
    """One stream. unread: its requests that failed before it was known which sequence they belong to."""

    unread: int = 0


stream_source: ContextVar[StreamSource | None] = ContextVar("stream_source", default=None)
"""In a call of a stream: that stream. None in a call with one request."""
