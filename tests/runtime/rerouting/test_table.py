"""Rerouting table: the table that the rule of rerouting reads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nested_sparse.errors import InputError
from nested_sparse.level import Level
from nested_sparse.reroute import Reroute
from nested_sparse.runtime.rerouting.table import RouteTable, route_accuracy

NAN = math.nan


def levels(*accuracies: float | None) -> list[Level]:
    """Levels of these accuracies."""
    return [Level(i, 0.5, 1, 1, {} if each is None else {"accuracy": each}) for i, each in enumerate(accuracies)]


def test_accuracies_come_from_the_reroutes() -> None:
    """Where they name an operator; at the first one, a run is one of the lower level."""
    reroutes = [Reroute(2, 0, {"b": 0.6, "gone": 0.1}), Reroute(2, 1, {"c": 0.8})]
    table = route_accuracy(("a", "b", "c", "b.1"), levels(0.5, 0.7, 0.9), reroutes)
    np.testing.assert_array_equal(table[2, 0], [0.5, 0.6, NAN, NAN])
    np.testing.assert_array_equal(table[2, 1], [0.7, NAN, 0.8, NAN])
    np.testing.assert_array_equal(table[1, 0], [0.5, NAN, NAN, NAN])
    assert np.isnan(table[np.triu_indices(3)]).all()


def test_without_reroutes_a_route_scores_what_its_end_does() -> None:
    """Levels without any accuracy are ranked; a level whose accuracy alone is not known is no end."""
    np.testing.assert_array_equal(route_accuracy(("a", "b"), levels(0.5, 0.9), [])[1, 0], [0.5, 0.5])
    ranked = route_accuracy(("a", "b"), levels(None, None, None), [])
    np.testing.assert_array_equal(ranked[2, :2], [[0, 0], [1, 1]])
    partial = route_accuracy(("a", "b"), levels(None, 0.7, 0.9), [])
    np.testing.assert_array_equal(partial[2, :2], [[NAN, NAN], [0.7, 0.7]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": ("a",)}, "remaining_share of 1 operators"),
        ({"accuracy": np.full((2, 2, 3), NAN)}, "accuracy of 2 operators"),
        ({"remaining_share": np.array([[0.5, 0.6], [1, 0.5]])}, "must fall"),
        ({"remaining_share": np.array([[0.5, NAN], [1, 0.5]])}, "must fall"),
        ({"remaining_share": np.array([[1.5, 0.6], [1, 0.5]])}, "must fall"),
        ({"accuracy": np.zeros((2, 2, 2))}, "never rises"),
    ],
)
def test_tables_that_make_no_sense_are_refused(change: dict[str, Any], words: str) -> None:
    """The error comes before the operators read the table."""
    good = {"layers": ("a", "b"), "remaining_share": np.ones((2, 2)), "accuracy": np.full((2, 2, 2), NAN)}
    RouteTable(**good)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=words):
        RouteTable(**{**good, **change})  # type: ignore[arg-type]
