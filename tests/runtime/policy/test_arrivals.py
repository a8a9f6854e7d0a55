"""Arrivals: the state after an arrival, compared with its definition."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from nested_sparse.runtime.policy import arrivals as module
from nested_sparse.runtime.policy.arrivals import Arrivals


class EveryWindow(Arrivals):
    """The definition: each window that is open counts each request that comes in, one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.windows: list[list[float]] = []  # begin_s, gap_s, samples

    def note(self, samples: int, budget_ms: float, now_s: float) -> None:
        gap_s = now_s - self._last_s
        weight = self._weight(gap_s)
        self._horizon_ms += weight * (budget_ms - self._horizon_ms)
        self._batch += weight * (samples - self._batch)
        if self._count:
            before_ms = self._interval_ms if self._count > 1 else gap_s * 1e3
            self._interval_ms = before_ms + weight * (gap_s * 1e3 - before_ms)
        while self.windows and now_s - self.windows[0][0] > self._horizon_ms / 1e3:
            _, begun_gap_s, seen = self.windows.pop(0)
            weight = self._weight(begun_gap_s)
            difference = seen - self._mean
            self._mean += weight * difference
            self._variance += weight * (difference * (seen - self._mean) - self._variance)
        for window in self.windows:
            window[2] += samples
        self.windows.append([now_s, gap_s, 0])
        self._last_s = now_s
        self._count += 1


def lines_run(work: Callable[[], object]) -> int:
    """Lines of runtime/policy/arrivals.py that ran: work that is counted, not timed."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != module.__file__:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def seen(times_s: np.ndarray, budget_ms: float, samples: int = 1) -> Arrivals:
    arrivals = Arrivals()
    for time_s in times_s:
        arrivals.note(samples, budget_ms, float(time_s))
    return arrivals


def test_no_load_and_no_pace_are_known_before_the_first_arrival() -> None:
    """The mean is 0, and the interval is infinite."""
    arrivals = Arrivals()
    assert not arrivals.known
    assert not arrivals.regular


@pytest.mark.parametrize("squared_variation", [1.0, 4.0])
def test_following_is_the_mean_count_that_an_arrival_sees(squared_variation: float) -> None:
    """Against a count over all arrivals; in clumps it is more than the rate times the horizon."""
    generator = np.random.default_rng(3)
    times_s = np.cumsum(generator.gamma(1 / squared_variation, squared_variation / 50.0, 4000))
    counts = np.searchsorted(times_s, times_s + 0.1, side="right") - np.arange(len(times_s)) - 1
    estimates = []
    arrivals = Arrivals()
    for time_s in times_s:
        arrivals.note(1, 100.0, float(time_s))
        estimates.append(arrivals.following)
    assert np.mean(estimates[500:]) == pytest.approx(np.mean(counts[:-50]), rel=0.1)
    assert (np.mean(counts) > 6) == (squared_variation > 1)
    assert not arrivals.regular


def test_an_even_pace_is_regular_and_its_interval_is_known() -> None:
    """A camera at 30 images a second, and what one batch of 4 is followed by in 100 ms."""
    arrivals = seen(np.arange(200) / 30, 110.0, samples=4)
    assert arrivals.regular
    assert arrivals.interval_ms == pytest.approx(1000 / 30)
    assert arrivals.batch == pytest.approx(4.0)
    assert arrivals.horizon_ms == pytest.approx(110.0)
    assert arrivals.following == pytest.approx(12.0)


def test_a_pause_lets_the_past_go() -> None:
    """After a busy minute and half a minute of silence, two single requests are what it knows."""
    arrivals = seen(np.concatenate([np.arange(6000) / 100, [90.0, 120.0, 150.0]]), 100.0)
    assert arrivals.following < 0.1


arriving = st.tuples(
    st.floats(0, 3).map(lambda root: root**6 / 100),  # most gaps are short, some far beyond a budget
    st.integers(1, 64),
    st.sampled_from((0.5, 20.0, 1000.0)),
)


@given(st.lists(arriving, max_size=120))
def test_figures_are_those_of_counting_every_window(steps: list[tuple[float, int, float]]) -> None:
    """The same bits, whatever comes and however the budgets change."""
    quick, naive, now_s = Arrivals(), EveryWindow(), 1000.0
    for gap_s, samples, budget_ms in steps:
        now_s += gap_s
        quick.note(samples, budget_ms, now_s)
        naive.note(samples, budget_ms, now_s)
        figures = [(a.following, a.batch, a.horizon_ms, a.interval_ms, a.regular) for a in (quick, naive)]
        assert figures[0] == figures[1]


def test_a_note_costs_the_same_however_many_windows_are_open() -> None:
    """4000 requests with a minute each, none of them over, cost as many lines each as the first hundred did."""
    arrivals = Arrivals()

    def note(numbers: range) -> Callable[[], object]:
        return lambda: [arrivals.note(1, 60_000.0, number / 1000) for number in numbers]

    first = lines_run(note(range(100))) / 100
    later = lines_run(note(range(100, 4000))) / 3900
    assert later < 2 * first


def test_a_minute_of_many_requests_is_held_in_bounded_memory_and_known_as_well() -> None:
    """Clumps of 1 to 9, 1500 a second for 150 s, with a minute each: a few thousand windows, and the true mean."""
    generator = np.random.default_rng(7)
    sizes = generator.integers(1, 10, 15_000)
    times_s = np.repeat(np.cumsum(generator.exponential(5 / 1500, len(sizes))), sizes)
    arrivals, most = Arrivals(), 0
    for time_s in times_s:
        arrivals.note(1, 20_000.0, float(time_s))
        most = max(most, len(arrivals._open))
    assert most <= 2 * module.MOST_WINDOWS
    begun = times_s[times_s < times_s[-1] - 20.0][-2000:]
    counts = np.searchsorted(times_s, begun + 20.0, side="right") - np.searchsorted(times_s, begun, side="right")
    assert arrivals.following == pytest.approx(counts.mean(), rel=0.02)
