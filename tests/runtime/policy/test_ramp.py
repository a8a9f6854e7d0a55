"""Ramp: a level that falls at once and rises step by step."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from nested_sparse.runtime.policy.ramp import Ramp


def test_falls_at_once_to_the_level_that_fits() -> None:
    """One decision is enough to fall by several levels."""
    assert Ramp(3, decisions=8).step(0) == 0


def test_rises_one_level_after_enough_decisions() -> None:
    """Seven decisions are too few, the eighth counts, and the next rise needs eight more."""
    ramp = Ramp(0, decisions=8)
    assert [ramp.step(3) for _ in range(17)] == [0] * 7 + [1] * 8 + [2] * 2


def test_one_decision_that_would_not_rise_starts_the_count_again() -> None:
    """The decisions have to be consecutive."""
    ramp = Ramp(0, decisions=3)
    assert [ramp.step(fitting) for fitting in (2, 2, 0, 2, 2, 0, 2, 2, 2)] == [0] * 8 + [1]


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 4))
def test_never_runs_above_the_fitting_level_and_never_rises_by_two(steps: list[int], decisions: int) -> None:
    """For any sequence, the level fits and the ramp rises step by step."""
    ramp = Ramp(5, decisions)
    for fitting in steps:
        before = ramp.level
        level = ramp.step(fitting)
        assert level == ramp.level <= min(fitting, before + 1)
