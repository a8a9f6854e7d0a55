"""LatencyProfile: properties, JSON, interpolation over the batch, and measurement."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from nested_sparse.errors import CheckpointError, InputError
from nested_sparse.level import Level
from nested_sparse.runtime.profiling.profile import LatencyProfile, doubling
from nested_sparse.tensor_spec import TensorSpec


class TimedSession:
    """Each run takes the next of its level's times, on a clock of its own."""

    name = "timed"

    def __init__(self, times_ms: Sequence[Sequence[float]], batch: int | None = None, value: float = 0.0) -> None:
        self.times_ms = times_ms
        self.levels = tuple(Level(i, 1.0, 1, 1) for i in range(len(times_ms)))
        self.inputs = (TensorSpec("x", "float32", (batch, 2), (batch or 1, 2)),)
        self.value = value
        self.order: list[tuple[int, int]] = []
        self.now_s = 0.0

    def run(self, inputs: dict[str, np.ndarray], level: int) -> dict[str, np.ndarray]:
        batch = len(inputs["x"])
        count = self.order.count((level, batch))
        self.order.append((level, batch))
        self.now_s += self.times_ms[level][count % len(self.times_ms[level])] * batch / 1e3
        return {"y": np.full(2, self.value if level else 0.0, np.float32)}


times = st.floats(0.01, 1e3)
tables = st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(times, min_size=n, max_size=n), min_size=1, max_size=5))


@given(tables)
def test_never_faster_at_a_denser_level_or_a_larger_batch(table: list[list[float]]) -> None:
    """Predictions rise with the level and with the batch, and never lie under what was measured."""
    batches = [1, 2, 4, 8][: len(table[0])]
    profile = LatencyProfile(batches, table)
    for level in range(len(table)):
        row = [profile.predict_ms(level, batch) for batch in range(1, 20)]
        assert row == pytest.approx(sorted(row), rel=1e-12)
        assert level == 0 or all(row[b - 1] >= profile.predict_ms(level - 1, b) * (1 - 1e-12) for b in range(1, 20))
        assert all(profile.predict_ms(level, batch) >= table[level][i] for i, batch in enumerate(batches))


@given(tables)
def test_json_round_trip(table: list[list[float]]) -> None:
    """from_json(to_json()) predicts the same."""
    profile = LatencyProfile([1, 2, 4, 8][: len(table[0])], table)
    copy = LatencyProfile.from_json(profile.to_json())
    assert (copy.batches, copy.median_ms, copy.p95_ms) == (profile.batches, profile.median_ms, profile.p95_ms)


def test_interpolates_over_the_batch() -> None:
    """Linear between the measured batches, flat below, in proportion beyond."""
    profile = LatencyProfile([2, 4], [[10.0, 16.0]])
    assert [profile.predict_ms(0, batch) for batch in (1, 2, 3, 4, 6)] == [10.0, 10.0, 13.0, 16.0, 24.0]
    assert LatencyProfile([2], [[10.0]]).predict_ms(0, 5) == 25.0


BAD_TABLES = [
    ("[]", "[[]]"),
    ("[0]", "[[1]]"),
    ("[2, 1]", "[[1, 2]]"),
    ("[1]", "[]"),
    ("[1]", "[[1, 2]]"),
    ("[1]", "[[NaN]]"),
    ("[1]", "[[0]]"),
    ("[1]", '[["x"]]'),
]
BAD_JSON = [
    "",
    "[]",
    "{}",
    '{"version": 2, "batches": [1], "median_ms": [[1]], "p95_ms": [[1]]}',
    *(f'{{"version": 1, "batches": {batches}, "median_ms": {rows}, "p95_ms": {rows}}}' for batches, rows in BAD_TABLES),
]


@pytest.mark.parametrize("text", BAD_JSON)
def test_bad_json_is_refused(text: str) -> None:
    """Anything that is not a profile is an InputError."""
    with pytest.raises(InputError, match="latency profile"):
        LatencyProfile.from_json(text)


def test_measure_takes_medians_of_interleaved_runs() -> None:
    """One outlier does not count, levels take turns, batches ascend."""
    session = TimedSession([[2.0, 2.0, 2.0, 50.0], [3.0]])
    profile = LatencyProfile.measure(session, batches=(4, 1), repeats=5, clock=lambda: session.now_s)
    assert profile.batches == (1, 4)
    assert profile.median_ms == (pytest.approx((2.0, 8.0)), pytest.approx((3.0, 12.0)))
    assert profile.p95_ms[0][0] > 10
    turn = [(0, 1), (1, 1), (0, 4), (1, 4)]
    assert session.order == turn * 6


def test_measure_stops_at_the_time_limit() -> None:
    """A slow device is measured with at least three turns, not with all."""
    session = TimedSession([[100.0]])
    LatencyProfile.measure(session, repeats=50, limit_s=0.5, clock=lambda: session.now_s)
    assert len(session.order) == 1 + 4
    LatencyProfile.measure(session, repeats=50, limit_s=0.0, clock=lambda: session.now_s)
    assert len(session.order) == 5 + 1 + 3


def test_models_are_measured_in_turns() -> None:
    """Each turn runs all levels of each; each profile is that of its model alone; the limit holds for all of them."""
    first, second = TimedSession([[2.0], [3.0]]), TimedSession([[5.0]], batch=2)

    def clock() -> float:
        return first.now_s + second.now_s

    profiles = LatencyProfile.measure_together([first, second], batches=(1,), repeats=4, clock=clock)
    assert [each.batches for each in profiles] == [(1,), (2,)]
    assert [each.median_ms for each in profiles] == [
        (pytest.approx((2.0,)), pytest.approx((3.0,))),
        (pytest.approx((10.0,)),),
    ]
    assert first.order == [(0, 1), (1, 1)] * 5
    assert second.order == [(0, 2)] * 5
    LatencyProfile.measure_together([first, second], repeats=50, limit_s=0.0, clock=clock)
    assert len(second.order) == 5 + 1 + 3


def test_measure_uses_a_fixed_batch() -> None:
    """A model of fixed batch is measured at that one, whatever was asked."""
    session = TimedSession([[1.0]], batch=3)
    assert LatencyProfile.measure(session, repeats=3, clock=lambda: session.now_s).batches == (3,)


def test_measure_refuses_outputs_that_are_not_finite() -> None:
    """A broken level is named before it is served."""
    session = TimedSession([[1.0], [1.0]], value=np.nan)
    with pytest.raises(CheckpointError, match="timed: level 1 gives 2 values that are not finite"):
        LatencyProfile.measure(session, clock=lambda: session.now_s)


@given(st.integers(1, 200))
def test_doubling_ends_at_the_largest(largest: int) -> None:
    """Ascending from 1, no step more than double, the last as asked."""
    batches = doubling(largest)
    assert (batches[0], batches[-1]) == (1, largest)
    assert all(low < high <= 2 * low for low, high in itertools.pairwise(batches))


def test_measure_adds_batches_as_time_allows() -> None:
    """Doubling batches up to the largest, in a limit that fits them all."""
    session = TimedSession([[1.0], [2.0]])
    profile = LatencyProfile.measure(session, max_batch=6, repeats=3, clock=lambda: session.now_s)
    assert profile.batches == (1, 2, 4, 6)
    assert profile.median_ms[1] == pytest.approx((2.0, 4.0, 8.0, 12.0))


@given(st.floats(1.0, 500.0), st.floats(0.05, 5.0), st.integers(1, 64))
def test_measure_leaves_out_batches_that_would_take_too_long(level_ms: float, limit_s: float, largest: int) -> None:
    """It ends in the limit, or has measured the smallest batch only, three times."""
    session = TimedSession([[level_ms]])
    profile = LatencyProfile.measure(
        session, max_batch=largest, repeats=50, limit_s=limit_s, clock=lambda: session.now_s
    )
    assert profile.batches == doubling(largest)[: len(profile.batches)]
    turn_s = level_ms * sum(profile.batches) / 1e3
    assert session.now_s <= limit_s + turn_s or profile.batches == (1,)
    assert len(session.order) >= 4 * len(profile.batches)


def test_measure_stops_when_it_knows_enough() -> None:
    """Five turns will do once `enough_s` have passed."""
    session = TimedSession([[100.0]])
    LatencyProfile.measure(session, repeats=50, enough_s=0.3, clock=lambda: session.now_s)
    assert len(session.order) == 1 + 5


def test_quieter_takes_the_lesser_of_each_case() -> None:
    """A case that only one of the profiles has is taken, too."""
    mine = LatencyProfile([1, 4], [[1.0, 6.0], [5.0, 7.0]])
    other = LatencyProfile([1, 2], [[2.0, 3.0], [4.0, 6.0]])
    for both in (mine.quieter(other), other.quieter(mine)):
        assert both.batches == (1, 2, 4)
        assert both.median_ms == ((1.0, 3.0, 6.0), (4.0, 6.0, 7.0))
    with pytest.raises(InputError, match="measure it again"):
        mine.quieter(LatencyProfile([1], [[1.0]]))


@pytest.mark.parametrize(("batches", "repeats"), [((), 3), ((0,), 3), ((1,), 0)])
def test_measure_refuses_nonsense(batches: tuple[int, ...], repeats: int) -> None:
    """Nothing to measure is an error."""
    with pytest.raises(InputError, match="expected"):
        LatencyProfile.measure(TimedSession([[1.0]]), batches, repeats)
