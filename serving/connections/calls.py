"""Calls: those that a server has begun to handle and whose answers are not with the network yet."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

POLL_S = 0.01


class Calls:
    """Counts calls from their request to the end of their answer. Belongs to one event loop.

    taken_bytes: of the messages that came from each peer, as gRPC writes its address.
    """

    def __init__(self) -> None:
        self.taken_bytes: Counter[str] = Counter()
        self._open = 0
        self._changed_s = 0.0

    def begin(self, context: Any) -> None:
        """A call has begun; gRPC tells when its answer is sent, or its client is gone."""
        self._open += 1
        self._changed_s = time.monotonic()
        context.add_done_callback(self._end)

    def took(self, context: Any, nbytes: int) -> None:
        """A message of `nbytes` of this call has come whole."""
        self.taken_bytes[context.peer()] += nbytes

    def _end(self, context: Any) -> None:
        self._open -= 1
        self._changed_s = time.monotonic()

    async def settle(self, quiet_s: float, limit_s: float) -> bool:
        """Wait until no call is open, and none has come or gone for `quiet_s`; False where `limit_s` was too short.

        At least `quiet_s`: an answer whose sending has ended may still be on its way from gRPC to the system.
        """
        begun_s = time.monotonic()
        end_s = begun_s + limit_s
        while self._open or time.monotonic() < max(begun_s, self._changed_s) + quiet_s:
            if time.monotonic() >= end_s:
                return False
            await asyncio.sleep(POLL_S)
        return True
