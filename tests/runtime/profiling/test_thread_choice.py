"""Thread choice: more threads only if they reduce latency."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nested_sparse.runtime.profiling.profile_key import choice_key
from nested_sparse.runtime.profiling.profile_store import ProfileStore
from nested_sparse.runtime.profiling.thread_choice import THREADS, choose_threads
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


def test_a_kept_choice_is_not_measured_again(tmp_path: Path) -> None:
    """Nor is it one of the profile's own number of threads; what is no choice is measured."""
    store, key = ProfileStore(tmp_path), {"checkpoint": "abc", "threads": 4, "max_batch": 16}
    first = Timed(4, {1: 10.0, 4: 12.0})
    assert choose_threads(first, lambda: first.now_s, store=store, key=key) is False  # type: ignore[arg-type]
    second = Timed(4, {})
    assert choose_threads(second, store=store, key=key) is False  # type: ignore[arg-type]
    assert (second.threads, second.ran) == (1, set())
    store.keep(choice_key({**key, "threads": 1}), THREADS, 3)  # of a file that another program wrote
    third = Timed(4, {1: 10.0, 4: 5.0})
    assert choose_threads(third, lambda: third.now_s, store=store, key=key) is True  # type: ignore[arg-type]
    fourth = Timed(4, {})
    assert choose_threads(fourth, store=store, key=key) is True  # type: ignore[arg-type]
    assert (fourth.threads, fourth.ran) == (4, set())
