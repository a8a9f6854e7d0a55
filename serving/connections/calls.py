"""Calls: the calls that a server has begun to handle, until their answers are sent."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

POLL_S = 0.01


class Calls:
    """Counts calls from their request to the end of their answer. Belongs to one event loop.

    taken_bytes: bytes of the messages from each peer, by its address as gRPC writes it.
    """

    def __init__(self) -> None:
        self.taken_bytes: Counter[str] = Counter()
        self._open = 0
        self._changed_s = 0.0

    def begin(self, context: Any) -> None:
        """Note that a call has begun. It ends when gRPC reports that its answer is sent, or its client is gone."""
        self._open += 1
        self._changed_s = time.monotonic()
        context.add_done_callback(self._end)

    def took(self, context: Any, nbytes: int) -> None:
        """Note that a message of `nbytes` of this call has arrived completely."""
        self.taken_bytes[context.peer()] += nbytes

    def _end(self, context: Any) -> None:
        self._open -= 1
        self._changed_s = time.monotonic()

    async def settle(self, quiet_s: float, limit_s: float) -> bool:
        """Wait until no call is open, and none has begun or ended for `quiet_s`; False where `limit_s` was too short.

        It waits `quiet_s` at least: an answer that gRPC reports as sent may still be on its way to the system.
        """
        begun_s = time.monotonic()
        end_s = begun_s + limit_s
        while self._open or time.monotonic() < max(begun_s, self._changed_s) + quiet_s:
            if time.monotonic() >= end_s:
                return False
            await asyncio.sleep(POLL_S)
        return True
