"""Rerouting table: the table, and the rule by which an inference is lowered."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.errors import InputError
from nested_sparse.kernels import guarded_run
from nested_sparse.level import Level
from nested_sparse.reroute import Reroute
from nested_sparse.runtime.rerouting.guard import RouteGuard
from nested_sparse.runtime.rerouting.table import RouteTable, Seen, fade, operator_names, route_accuracy

NAN = math.nan


def even_table(levels: int, operators: int, accuracy: float = 0.5) -> RouteTable:
    """Every operator takes the same share of its level, and the level may fall everywhere."""
    share = np.tile(1 - np.arange(operators) / operators, (levels, 1))
    table = np.full((levels, levels, operators), NAN)
    for end in range(levels):
        table[end + 1 :, end] = accuracy + end / 100
    return RouteTable(tuple(f"layer{n}" for n in range(operators)), share, table)


SITUATIONS = 20
"""For each seed."""


def situation(rng: np.random.Generator) -> dict[str, Any]:
    """A table, a run in progress about as fast as forecast, a budget about as long as it will take, and limits.

    Shares and scores have few distinct values, so that ties come up.
    """
    levels, operators = int(rng.integers(2, 5)), int(rng.integers(1, 7))
    share = np.sort(rng.integers(0, 9, (levels, operators)) / 8, axis=1)[:, ::-1]
    accuracy = rng.choice([NAN, 0.25, 0.5, 0.5, 0.75], (levels, levels, operators))
    accuracy[np.triu_indices(levels)] = NAN
    level, n = int(rng.integers(levels)), int(rng.integers(operators))
    level_ms = sorted(rng.choice([1.0, 2.0, 4.0, 7.3, 20.0], levels).tolist())
    done_ms = level_ms[level] * (1 - share[level, n])
    slowdown = float(rng.choice([0.5, 1.0, 1.7]))
    elapsed_ms = done_ms * slowdown * rng.choice([0.5, 1.0, 1.0, 1.3, 3.0])
    left_ms = level_ms[level] * share[level, n] * slowdown
    return {
        "table": RouteTable(tuple(f"layer{n}" for n in range(operators)), share, accuracy),
        "level": level,
        "n": n,
        "elapsed_ms": float(elapsed_ms),
        "level_ms": level_ms,
        "budget_ms": float(elapsed_ms + left_ms * rng.choice([0.2, 0.5, 0.8, 1.0, 1.2])),
        "slowdown": slowdown,
        "least_accuracy": float(rng.choice([-math.inf, -math.inf, 0.25, 0.6])),
        "lowest_level": int(rng.choice([0, 0, 1])),
        "lately": Seen(float(elapsed_ms * rng.choice([0.3, 1.0])), float(done_ms * rng.choice([0.3, 1.0]))),
        "margin": float(rng.choice([0.0, 0.1])),
    }


@given(st.integers(0, 2**32 - 1))
def test_operators_decide_as_the_reference(seed: int) -> None:
    """The library's rule and RouteTable.decide, to the last bit of every comparison."""
    rng = np.random.default_rng(seed)
    for case in (situation(rng) for _ in range(SITUATIONS)):
        guard = RouteGuard(case["table"])
        floors = {name: case[name] for name in ("least_accuracy", "lowest_level", "margin")}
        guard.arm(case["level"], case["level_ms"], case["budget_ms"], case["slowdown"], **floors)
        place = (case["level"], case["n"], case["elapsed_ms"])
        assert guarded_run.decide(guard._run, *place, case["lately"]) == _reference(case)


def test_situations_go_either_way() -> None:
    """The random situations of the other tests are near the limit, so both outcomes and all levels are frequent."""
    rng = np.random.default_rng(0)
    cases = [situation(rng) for _ in range(2000)]
    drops = [case["level"] - _reference(case) for case in cases]
    assert all(drops.count(drop) > least for drop, least in ((0, 400), (1, 100), (2, 50), (3, 10)))


@given(st.integers(0, 2**32 - 1))
def test_floors_are_never_broken(seed: int) -> None:
    """A level only falls, where it may, to no less than either floor, and not while there is time."""
    rng = np.random.default_rng(seed)
    for case in (situation(rng) for _ in range(SITUATIONS)):
        level, decided = case["level"], _reference(case)
        assert decided <= level
        if decided < level:
            assert decided >= case["lowest_level"]
            assert case["table"].accuracy[level, decided, case["n"]] >= case["least_accuracy"]
        assert _reference({**case, "budget_ms": math.inf}) == level


def _reference(situation: dict[str, Any]) -> int:
    arguments = {name: value for name, value in situation.items() if name != "table"}
    return int(situation["table"].decide(**arguments))


def decide(table: RouteTable, n: int, elapsed_ms: float, budget_ms: float, **options: Any) -> int:
    """At the densest of levels that take 2, 4, 8 ms, without a reserve."""
    options = {"margin": 0.0, **options}
    return table.decide(2, n, elapsed_ms, [2.0, 4.0, 8.0], budget_ms, 1.0, **options)


def test_it_falls_as_late_and_as_little_as_is_in_time() -> None:
    """Four operators of 2 ms each at level 2, 1 ms at level 1, 0.5 ms at level 0; on time so far."""
    table = even_table(3, 4)
    assert decide(table, 1, 2.0, 8.0) == 2
    assert decide(table, 1, 2.0, 7.9) == 2  # level 1 from operator 3 on is enough
    assert decide(table, 1, 2.0, 6.0) == 2  # from operator 2 on
    assert decide(table, 3, 6.0, 7.0) == 1
    assert decide(table, 3, 6.0, 6.9) == 0
    assert decide(table, 1, 2.0, 5.0) == 1
    assert decide(table, 1, 2.0, 4.9) == 0
    assert decide(table, 2, 4.0, 4.9) == 0
    assert decide(table, 2, 4.0, 0.0) == 0  # it is late whatever it does, and ends the sooner


def test_it_does_not_fall_where_that_is_no_sooner() -> None:
    """A lower level that takes as long is of no use."""
    table = even_table(3, 4)
    assert table.decide(2, 1, 2.0, [8.0, 8.0, 8.0], 1.0, 1.0) == 2


def test_a_disturbance_seen_counts_more_the_longer_it_lasts() -> None:
    """Beside a neighbour the rest will take twice as long: with 9 ms the run falls where it would not when on time."""
    table = even_table(3, 4)
    assert decide(table, 2, 4.5, 9.0, lately=Seen(4.5, 4.5)) == 2
    assert decide(table, 2, 4.5, 9.0, lately=Seen(9.0, 4.5)) < 2


@given(st.lists(st.floats(0.01, 3), min_size=1, max_size=30), st.floats(0.2, 5))
def test_what_was_seen_lately_is_the_slowdown_of_a_steady_run(steps_ms: list[float], slowdown: float) -> None:
    """And after a change it tends to the new one, the faster the less was remembered."""
    lately, last = Seen(), Seen()
    for step_ms in steps_ms:
        now = Seen(last.elapsed_ms + slowdown * step_ms, last.done_ms + step_ms)
        lately, last = fade(lately, last, now, 5.0), now
        assert lately.elapsed_ms == pytest.approx(slowdown * lately.done_ms)
    before = lately
    now = Seen(last.elapsed_ms + 10 * slowdown, last.done_ms + 1.0)
    lately = fade(lately, last, now, 5.0)
    whole = now.elapsed_ms / now.done_ms
    assert lately.elapsed_ms / lately.done_ms >= whole * (1 - 1e-9)
    assert lately.done_ms <= before.done_ms + 1.0


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


def test_layers_used_again_are_numbered() -> None:
    """As the graph's nodes are."""
    assert operator_names(["a", "b", "a", "a", "b"]) == ("a", "b", "a.1", "a.2", "b.1")


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
    """Before the operators read them."""
    good = {"layers": ("a", "b"), "remaining_share": np.ones((2, 2)), "accuracy": np.full((2, 2, 2), NAN)}
    RouteTable(**good)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=words):
        RouteTable(**{**good, **change})  # type: ignore[arg-type]
