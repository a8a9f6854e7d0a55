"""Rerouting table: the table that the rule of rerouting reads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nested_sparse.errors import InputError
from nested_sparse.level import Level
from nested_sparse.reroute import Reroute
from nested_sparse.runtime.rerouting.table import RouteTable, route_accuracy, route_ranks

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


def test_accuracies_are_moved_to_the_samples_of_the_levels() -> None:
    """By what the lower level scores on each; no lowered run is taken to be better than both of its levels."""
    reroutes = [
        Reroute(1, 0, {"a": 0.6, "b": 0.5, "c": 0.95}),
        Reroute(2, 0, {"b": 0.6}),
        Reroute(2, 1, {"a": 1, "b": 0}),
    ]
    table = route_accuracy(("a", "b", "c"), levels(0.5, 0.7, 0.9), reroutes)
    np.testing.assert_allclose(table[1, 0], [0.5, 0.4, 0.7])
    np.testing.assert_allclose(table[2, 0], [0.5, 0.6, NAN])
    np.testing.assert_allclose(table[2, 1], [0.7, 0.0, NAN])
    np.testing.assert_allclose(route_accuracy(("a", "b", "c"), levels(None, 0.7), reroutes[:1])[1, 0], [NAN, 0.5, 0.95])
    np.testing.assert_allclose(route_accuracy(("a", "b", "c"), levels(0.5, None), reroutes[:1])[1, 0], [0.5, 0.4, 0.5])


def test_without_reroutes_a_lowered_run_scores_as_its_lower_level() -> None:
    """The level does not fall to a level whose accuracy alone is not known."""
    np.testing.assert_array_equal(route_accuracy(("a", "b"), levels(0.5, 0.9), [])[1, 0], [0.5, 0.5])
    partial = route_accuracy(("a", "b"), levels(None, 0.7, 0.9), [])
    np.testing.assert_array_equal(partial[2, :2], [[NAN, NAN], [0.7, 0.7]])
    assert route_ranks(partial, levels(None, 0.7, 0.9), []) is None


def made(stated: list[Level], reroutes: list[Reroute], operators: tuple[str, ...] = ("a", "b", "c")) -> RouteTable:
    """The table of a file with these levels and reroutes."""
    accuracy = route_accuracy(operators, stated, reroutes)
    shares = np.ones((len(stated), len(operators)))
    return RouteTable(operators, shares, accuracy, route_ranks(accuracy, stated, reroutes))


def test_levels_without_accuracy_are_ranked_and_no_accuracy_is_expected() -> None:
    """The rank of a fall is the index of its lower level; it is not reported as an accuracy."""
    table = made(levels(None, None, None), [])
    np.testing.assert_array_equal(table.order[2, :2], [[0, 0, 0], [1, 1, 1]])
    assert np.isnan(table.order[np.triu_indices(3)]).all()
    assert {table.expected_accuracy(start, 0, n) for start in (1, 2) for n in range(3)} == {None}


def test_ranks_and_measured_accuracies_are_never_compared() -> None:
    """The levels state no accuracy, the reroutes do: all falls are ranked, and the measured accuracies are reported."""
    table = made(levels(None, None, None), [Reroute(2, 0, {"b": 0.6, "a": 0.1}), Reroute(2, 1, {"c": 0.8})])
    np.testing.assert_array_equal(table.order[2, :2], [[0, 0, NAN], [1, NAN, 1]])
    np.testing.assert_array_equal(table.order[1, 0], [0, NAN, NAN])
    assert [table.expected_accuracy(2, 0, n) for n in range(3)] == [None, 0.6, None]
    assert [table.expected_accuracy(2, 1, n) for n in range(3)] == [None, None, 0.8]


def test_stated_accuracies_rank_the_falls() -> None:
    """The rule then reads the accuracies themselves."""
    table = made(levels(0.5, 0.7), [])
    assert table.order is table.accuracy
    assert table.expected_accuracy(1, 0, 2) == 0.5
    assert table.expected_accuracy(0, 1, 2) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": ("a",)}, "remaining_share of 1 operators"),
        ({"accuracy": np.full((2, 2, 3), NAN)}, "accuracy of 2 operators"),
        ({"remaining_share": np.array([[0.5, 0.6], [1, 0.5]])}, "must fall"),
        ({"remaining_share": np.array([[0.5, NAN], [1, 0.5]])}, "must fall"),
        ({"remaining_share": np.array([[1.5, 0.6], [1, 0.5]])}, "must fall"),
        ({"accuracy": np.zeros((2, 2, 2))}, "never rises"),
        ({"ranks": np.full((2, 2, 3), NAN)}, "ranks of 2 operators"),
        ({"ranks": np.zeros((2, 2, 2))}, "ranks where end is not below start"),
    ],
)
def test_tables_that_make_no_sense_are_refused(change: dict[str, Any], words: str) -> None:
    """The error comes before the operators read the table."""
    good = {"layers": ("a", "b"), "remaining_share": np.ones((2, 2)), "accuracy": np.full((2, 2, 2), NAN)}
    RouteTable(**good)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=words):
        RouteTable(**{**good, **change})  # type: ignore[arg-type]
