"""Thread choice: more threads only if they reduce latency."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from nested_sparse.runtime.profiling.thread_choice import choose_threads
from nested_sparse.tensor_spec import TensorSpec


class Timed:
    """A session whose run at `threads` takes `ms[threads]` of a clock of its own; every first run is slow."""

    name = "m"
    levels = (SimpleNamespace(index=0), SimpleNamespace(index=1))
    inputs = (TensorSpec("x", "float32", (None, 3), (1, 3)),)

    def __init__(self, threads: int, ms: dict[int, float]) -> None:
        self.now_s = 0.0
        self._ms, self._threads, self._fresh = ms, threads, True
        self.ran: set[int] = set()

    @property
    def threads(self) -> int:
        return self._threads

    @threads.setter
    def threads(self, threads: int) -> None:
        self._fresh = self._fresh or threads != self._threads
        self._threads = threads

    def run(self, inputs: object, level: int) -> dict[str, np.ndarray]:
        self.ran.add(level)
        self.now_s += self._ms[self._threads] / 1e3 * (9 if self._fresh else 1)
        self._fresh = False
        return {}


@pytest.mark.parametrize(("many_ms", "pays"), [(5.0, True), (8.6, True), (8.8, False), (12.0, False)])
@pytest.mark.parametrize("slow", [1.0, 200.0])
def test_more_threads_only_where_they_pay(many_ms: float, pays: bool, slow: float) -> None:
    """1.15 times as quick at the densest level, warm; also of a model that gets few turns."""
    session = Timed(4, {1: 10.0 * slow, 4: many_ms * slow})
    assert choose_threads(session, lambda: session.now_s) is pays  # type: ignore[arg-type]
    assert (session.threads, session.ran) == (4 if pays else 1, {1})


def test_one_core_leaves_no_choice() -> None:
    """Nothing runs, and more cores are welcome."""
    session = Timed(1, {})
    assert choose_threads(session, lambda: session.now_s) is True  # type: ignore[arg-type]
    assert session.ran == set()
