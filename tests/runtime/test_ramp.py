from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from nested_sparse.runtime.ramp import Ramp


def test_falls_at_once_to_what_fits() -> None:
    """One decision is enough to fall by several levels."""
    assert Ramp(3, decisions=8, rise_s=1.0).step(0, False, 0.0) == 0


def test_rises_one_level_after_enough_decisions() -> None:
    """Seven comfortable decisions are too few, the eighth counts, and the next rise needs eight more."""
    ramp = Ramp(0, decisions=8, rise_s=1e9)
    levels = [ramp.step(3, True, i * 0.01) for i in range(17)]
    assert levels == [0] * 7 + [1] * 8 + [2] * 2


def test_rises_after_enough_time_when_requests_are_rare() -> None:
    """Two comfortable decisions a second apart are enough."""
    ramp = Ramp(0, decisions=8, rise_s=1.0)
    assert [ramp.step(3, True, now_s) for now_s in (0.0, 0.5, 1.0)] == [0, 0, 1]


def test_one_uncomfortable_decision_starts_the_count_again() -> None:
    """The decisions have to be consecutive."""
    ramp = Ramp(0, decisions=3, rise_s=1e9)
    comfortable = [True, True, False, True, True, False, True, True, True]
    assert [ramp.step(3, each, 0.0) for each in comfortable] == [0] * 8 + [1]


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60))
def test_never_above_what_fits_and_never_rises_by_two(steps: list[tuple[int, bool]]) -> None:
    """Whatever comes, the level fits and the ramp climbs step by step."""
    ramp = Ramp(5, decisions=2, rise_s=1e9)
    for fitting, comfortable in steps:
        before = ramp.level
        level = ramp.step(fitting, comfortable and before < 5, 0.0)
        assert level <= fitting
        assert ramp.level <= before + 1
