"""Learning rate: cosine and one cycle, and the gradual density."""

from __future__ import annotations

import itertools

import pytest

from nested_sparse.trainer.learning_rate import learning_rate
from nested_sparse.trainer.schedules.gradual import gradual_density

STEPS = [step / 50 for step in range(51)]


def test_cosine_falls_from_peak_to_zero() -> None:
    """The rate is half the peak in the middle and never rises."""
    rates = [learning_rate("cosine", 0.2, progress) for progress in STEPS]
    assert rates[0] == 0.2
    assert rates[25] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0)
    assert all(low <= high for high, low in itertools.pairwise(rates))


def test_one_cycle_rises_then_falls() -> None:
    """The peak is at 30 %, the start small but not 0, the end 0."""
    rates = [learning_rate("one_cycle", 0.2, progress) for progress in STEPS]
    assert max(rates) == rates[15] == pytest.approx(0.2)
    assert 0 < rates[0] < 0.01
    assert rates[-1] == pytest.approx(0)


def test_gradual_density_is_cubic() -> None:
    """The density falls from 1 to the target; in the middle an eighth of the way is left."""
    assert gradual_density(0.2, 0) == 1
    assert gradual_density(0.2, 0.5) == pytest.approx(0.2 + 0.8 / 8)
    assert gradual_density(0.2, 1) == pytest.approx(0.2)
