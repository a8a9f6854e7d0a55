from __future__ import annotations

import pytest

from nested_sparse.errors import InputError, LevelError
from nested_sparse.level import Level
from nested_sparse.runtime.scheduling.request import Request, allowed_levels, allowed_slo_ms

LEVELS = [Level(i, 0.1 * (i + 1), 1, 1, {"accuracy": accuracy}) for i, accuracy in enumerate((0.8, 0.9, 0.95))]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (0, 2)),
        ({"level": 1}, (1, 1)),
        ({"level": -1}, (2, 2)),
        ({"min_accuracy": 0.85}, (1, 2)),
        ({"min_accuracy": 0.9}, (1, 2)),
        ({"min_accuracy": 0.95, "level": 2}, (2, 2)),
    ],
)
def test_allowed_levels(fields: dict[str, float], expected: tuple[int, int]) -> None:
    """min_accuracy is a floor, a level is exact."""
    assert allowed_levels(Request({}, **fields), LEVELS) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"level": 3}, "out of range"),
        ({"level": -2}, "out of range"),
        ({"min_accuracy": 0.96}, "no level reaches it, the best is 0.95"),
        ({"min_accuracy": float("nan")}, "min_accuracy: expected a number"),
        ({"min_accuracy": 0.95, "level": 0}, "ask for either"),
    ],
)
def test_impossible_levels_are_refused(fields: dict[str, float], words: str) -> None:
    """What cannot be had is said."""
    with pytest.raises((InputError, LevelError), match=words):
        allowed_levels(Request({}, **fields), LEVELS)  # type: ignore[arg-type]


def test_min_accuracy_needs_a_stated_accuracy() -> None:
    """A checkpoint without the metric cannot promise it."""
    with pytest.raises(InputError, match="states no accuracy"):
        allowed_levels(Request({}, min_accuracy=0.5), [Level(0, 0.1, 1, 1)])


def test_slo_is_capped_by_the_default() -> None:
    """Less than the default is honoured, more is not."""
    assert [allowed_slo_ms(Request({}, slo_ms=slo), 50.0) for slo in (None, 20.0, 80.0)] == [50.0, 20.0, 50.0]


@pytest.mark.parametrize("slo_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_slo_is_refused(slo_ms: float) -> None:
    """Not a positive number."""
    with pytest.raises(InputError, match="slo_ms"):
        allowed_slo_ms(Request({}, slo_ms=slo_ms), 50.0)
