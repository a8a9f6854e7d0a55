"""Request: its deadline and its allowed levels."""

from __future__ import annotations

import pytest

from nested_sparse.errors import DeadlineError, InputError, LevelError
from nested_sparse.level import Level
from nested_sparse.runtime.scheduling.request import Request, allowed_levels, time_limit_ms

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
def test_min_accuracy_is_a_floor_and_a_level_is_exact(fields: dict[str, float], expected: tuple[int, int]) -> None:
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
    """The error names the impossible value."""
    with pytest.raises((InputError, LevelError), match=words):
        allowed_levels(Request({}, **fields), LEVELS)  # type: ignore[arg-type]


def test_min_accuracy_needs_a_stated_accuracy() -> None:
    """A checkpoint without the metric cannot promise it."""
    with pytest.raises(InputError, match="states no accuracy"):
        allowed_levels(Request({}, min_accuracy=0.5), [Level(0, 0.1, 1, 1)])


@pytest.mark.parametrize(
    ("slo_ms", "timeout_ms", "expected_ms"),
    [
        (None, None, 50),
        (20, None, 20),
        (80, None, 50),
        (None, 30, 30),
        (20, 30, 20),
        (40, 30, 30),
        (20, float("inf"), 20),
    ],
)
def test_the_least_time_counts(slo_ms: float | None, timeout_ms: float | None, expected_ms: float) -> None:
    """The least of the client's request, the client's wait, and the scheduler's default counts."""
    assert time_limit_ms(Request({}, slo_ms=slo_ms, timeout_ms=timeout_ms), 50.0) == expected_ms


@pytest.mark.parametrize("slo_ms", [0.0, -5, float("nan"), float("inf"), True, "30"])
@pytest.mark.parametrize("timeout_ms", [None, 30.0, -1.0])
def test_impossible_slo_is_refused(slo_ms: float, timeout_ms: float | None) -> None:
    """The rule is the same for every wait of the client."""
    with pytest.raises(InputError, match=r"^slo_ms: expected a finite number of milliseconds above 0, got "):
        time_limit_ms(Request({}, slo_ms=slo_ms, timeout_ms=timeout_ms), 50.0)


@pytest.mark.parametrize("timeout_ms", [0.0, -0.1, float("-inf")])
def test_a_timeout_that_has_passed_is_an_expired_deadline(timeout_ms: float) -> None:
    """A client that has given up already costs no run."""
    with pytest.raises(DeadlineError, match="had passed"):
        time_limit_ms(Request({}, timeout_ms=timeout_ms), 50.0)
