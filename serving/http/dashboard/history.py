"""History: the work of the last minutes, second by second, while a page asks for it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from dataclasses import asdict
from typing import Any, Protocol

from ...top.counts import Counts
from ...top.rates import rates_between

PERIOD_S = 1.0
POINTS = 180
IDLE_S = 60.0
"""Time after the last question for which readings go on."""


class State(Protocol):
    """The server that is shown: an OwnState, or its stand-in in a test."""

    def counts(self) -> Counts:
        """The counts of now, from a thread beside the loop's."""

    def facts(self) -> dict[str, dict[str, Any]]:
        """Facts of each model, by its name, beside its rates."""

    def device(self) -> dict[str, Any]:
        """Readings of the sensors."""


class History:
    """Reads `state` every `period_s`, as long as it is asked. Belongs to one event loop."""

    def __init__(self, state: State, period_s: float = PERIOD_S) -> None:
        self._state = state
        self._period_s = period_s
        self._points: deque[dict[str, Any]] = deque(maxlen=POINTS)
        self._number = 0
        self._run = secrets.token_hex(8)
        self._asked_s = 0.0
        self._work: asyncio.Task[None] | None = None

    def since(self, number: int) -> dict[str, Any]:
        """The points after that number, the number of the last one, and a name of this run of the server.

        Starts the readings if they rest. All points, if `number` is of an earlier run.
        """
        self._asked_s = time.monotonic()
        if self._work is None or self._work.done():
            self._points.clear()  # the rates over a pause are those of no second
            self._work = asyncio.get_running_loop().create_task(self._go_on())
        points = [point for point in self._points if number > self._number or point["number"] > number]
        return {"run": self._run, "number": self._number, "period_s": self._period_s, "kept": POINTS, "points": points}

    def close(self) -> None:
        """End the readings."""
        if self._work is not None:
            self._work.cancel()

    async def _go_on(self) -> None:
        before = await asyncio.to_thread(self._state.counts)
        while time.monotonic() - self._asked_s < IDLE_S:
            await asyncio.sleep(self._period_s)
            after = await asyncio.to_thread(self._state.counts)
            rates = asdict(rates_between(before, after))
            facts = self._state.facts()
            rates["models"] = [{**model, **facts.get(model["name"], {})} for model in rates["models"]]
            self._number += 1
            self._points.append(
                {"number": self._number, "time_s": time.time(), "device": self._state.device(), **rates}
            )
            before = after
