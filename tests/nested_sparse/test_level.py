"""Level: the accuracy that a file states of it."""

from __future__ import annotations

import pytest

from nested_sparse.level import Level, stated_accuracies


@pytest.mark.parametrize(
    ("stated", "expected"),
    [((0.5, 0.75), [0.5, 0.75]), ((None, 0.75), None), ((None, None), None), ((0.0, 0.0), [0, 0])],
)
def test_accuracies_are_those_of_every_level_or_none(
    stated: tuple[float | None, ...], expected: list[float] | None
) -> None:
    """One level that states none makes them unknown; an accuracy of 0 is one."""
    metrics = [{"loss": 1.0} if each is None else {"loss": 1.0, "accuracy": each} for each in stated]
    levels = [Level(index, 0.5, 1, 1, each) for index, each in enumerate(metrics)]
    assert tuple(level.accuracy for level in levels) == stated
    assert stated_accuracies(levels) == expected
