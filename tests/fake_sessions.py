"""Fake sessions: replacements of a real session in tests of a scheduler."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np


class FakeSession:
    """The part of a session that a scheduler uses; name, inputs and levels are those of `like`."""

    def __init__(self, like: Any) -> None:
        self.name, self.inputs, self.outputs, self.levels = like.name, like.inputs, like.outputs, like.levels
        self.rows: str | None = None
        self.stopped: list[int] = []

    def stop_run(self, thread: int, begun_before_s: float) -> None:
        """Remembers the thread whose run was to stop."""
        self.stopped.append(thread)


class GatedSession(FakeSession):
    """Each run waits for one release of `gate`, then raises `fault` if there is one; y is twice x."""

    def __init__(self, like: Any) -> None:
        super().__init__(like)
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.fault: BaseException | None = None

    def run(self, inputs: dict[str, np.ndarray], level: int) -> dict[str, np.ndarray]:
        """As Session."""
        self.entered.release()
        assert self.gate.acquire(timeout=20)
        if self.fault is not None:
            raise self.fault
        return {"y": inputs["x"] * 2}
