"""Sequence: the state that is kept between the requests of one client, and what failed among them."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from nested_sparse.runtime.session import Array

from ..served_model import ServedModel
from .source import StreamSource

Key = tuple[ServedModel, str, Hashable]
"""Model, client, and the client's number or text for it; a text that is written is its own id."""
EVERY = StreamSource()
"""In place of a stream: requests of every source."""


@dataclass(eq=False, slots=True)
class Sequence:
    """One sequence of one client on one version of a model.

    used_s: time of its start, or of its last request that was answered. state: arrays by input, as after that request;
    None before the first. nbytes: that are kept for it. visits: its requests under way. last: the end of the last of
    them: whether it was answered. gone: it was forgotten; lost: the reason, if that was before its end. overlapped:
    since its start a request outside of a stream came while another was under way. broken: the source whose requests
    are refused until the next start, because they may have been sent before their client saw the error of another.
    begun: where it was started in a stream: that stream and its `unread` then.
    """

    key: Key
    used_s: float
    state: Mapping[str, Array] | None = None
    nbytes: int = 0
    visits: int = 0
    last: asyncio.Future[bool] | None = None
    gone: bool = False
    lost: str = ""
    overlapped: bool = False
    broken: StreamSource | None = None
    begun: tuple[StreamSource, int] | None = None

    @property
    def client(self) -> str:
        """Name of its client."""
        return self.key[1]

    def arrive(self, source: StreamSource | None, starts: bool) -> None:
        """Note that a request comes, before it has its place. source: its stream, if any."""
        if not self.visits:
            self.overlapped = self.overlapped and not starts
        elif source is None:
            self.overlapped = True

    def begin(self, source: StreamSource | None) -> None:
        """Note that a start has its place: what failed before it is no matter to those behind it."""
        self.broken = None
        self.begun = None if source is None else (source, source.unread)

    def refuses(self, source: StreamSource | None) -> bool:
        """Whether a request from `source`, if it comes now and is no start, may count on one that failed."""
        if self.broken is not None and self.broken in (EVERY, source):
            return True
        return source is not None and source.unread > 0 and self.begun != (source, source.unread)

    def fail(self, source: StreamSource | None) -> None:
        """Note that the request at the end of the line failed.

        A stream has no more of the client's trust than it lasts. Outside of streams, a client that sent one request at
        a time has seen the error before it sends the next one, and the state stays.
        """
        broken = EVERY if self.overlapped else source
        if broken is not None:
            self.broken = broken if self.broken in (None, broken) else EVERY
