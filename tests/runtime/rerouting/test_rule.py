"""Rerouting rule: the rule by which the level of a run falls, in Python and in the operators."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.kernels.guarded_run import arrive_at
from nested_sparse.runtime.rerouting.guard import RouteGuard
from nested_sparse.runtime.rerouting.rule import RuledRun, RunTerms, Seen, decide, fade
from nested_sparse.runtime.rerouting.table import RouteTable

NAN = math.nan
RUNS = 20
"""Of one property, for each seed."""


def even_table(levels: int, operators: int) -> RouteTable:
    """Every operator takes the same share of its level, and the level may fall everywhere."""
    share = np.tile(1 - np.arange(operators) / operators, (levels, 1))
    accuracy = np.full((levels, levels, operators), NAN)
    for end in range(levels):
        accuracy[end + 1 :, end] = 0.5 + end / 100
    return RouteTable(tuple(f"layer{n}" for n in range(operators)), share, accuracy)


class Case(NamedTuple):
    """A run that begins at `level`, and by how much slower than profiled its time passes before each operator."""

    table: RouteTable
    terms: RunTerms
    level: int
    pace: tuple[float, ...]


def draw(rng: np.random.Generator) -> Case:
    """A run about as fast as forecast, with a budget of about as long as it will take, and limits.

    Shares, times and scores have few distinct values, so that ties come up.
    """
    levels, operators = int(rng.integers(2, 5)), int(rng.integers(1, 9))
    share = np.sort(rng.integers(0, 9, (levels, operators)) / 8, axis=1)[:, ::-1]
    accuracy = rng.choice([NAN, 0.25, 0.5, 0.5, 0.75], (levels, levels, operators))
    accuracy[np.triu_indices(levels)] = NAN
    level = int(rng.integers(levels))
    level_ms = sorted(rng.choice([1.0, 2.0, 4.0, 7.3, 20.0], levels).tolist())
    slowdown = float(rng.choice([0.5, 1.0, 1.7]))
    terms = RunTerms(
        level_ms=level_ms,
        budget_ms=level_ms[level] * slowdown * float(rng.choice([0.2, 0.5, 0.8, 1.0, 1.2, 2.0])),
        slowdown=slowdown,
        least_accuracy=float(rng.choice([-math.inf, -math.inf, 0.25, 0.6])),
        lowest_level=int(rng.choice([0, 0, 1])),
        margin=float(rng.choice([0.0, 0.1])),
    )
    calm, late = float(rng.choice([0.5, 1.0, 1.0])), float(rng.choice([0.5, 1.0, 1.3, 3.0]))
    begins = int(rng.integers(operators + 1))  # operator from which on the pace is another one
    pace = tuple(slowdown * (calm if n < begins else late) for n in range(operators))
    return Case(RouteTable(tuple(f"layer{n}" for n in range(operators)), share, accuracy), terms, level, pace)


def play(case: Case) -> tuple[RuledRun, list[int], list[int]]:
    """The run by the reference; the level of each operator, and its start, ns."""
    run = RuledRun(case.table, case.terms, case.level)
    levels, starts_ns, left, elapsed_ms = [], [], 1.0, 0.0
    for n, pace in enumerate(case.pace):
        share = case.table.remaining_share
        elapsed_ms += case.terms.level_ms[run.level] * (left - float(share[run.level, n])) * pace
        starts_ns.append(round(elapsed_ms * 1e6))
        levels.append(run.arrive(n, starts_ns[-1] / 1e6))
        left = float(share[run.level, n])
    return run, levels, starts_ns


def armed(case: Case) -> RouteGuard:
    guard = RouteGuard(case.table)
    terms = case.terms
    guard.arm(
        case.level,
        terms.level_ms,
        terms.budget_ms,
        terms.slowdown,
        least_accuracy=terms.least_accuracy,
        lowest_level=terms.lowest_level,
        margin=terms.margin,
    )
    return guard


@given(st.integers(0, 2**32 - 1))
def test_operators_follow_the_reference(seed: int) -> None:
    """Whole runs: the library lowers the same runs at the same operators to the same levels."""
    rng = np.random.default_rng(seed)
    for case in (draw(rng) for _ in range(RUNS)):
        run, levels, starts_ns = play(case)
        guard = armed(case)
        assert [arrive_at(guard._run, start_ns) for start_ns in starts_ns] == levels
        place = None if run.lowered_at is None else case.table.layers[run.lowered_at]
        lowering = guard.lowering
        assert (guard.level, lowering and lowering.lowered_at) == (run.level, place)
        assert (lowering and lowering.lowered_from) == run.lowered_from
        assert guard.nominal_ms == run.nominal_ms


def test_drawn_runs_end_in_every_way() -> None:
    """They are near enough to the limit that each fall, one by several levels, and a second one are frequent."""
    rng = np.random.default_rng(0)
    played = [(case, *play(case)) for case in (draw(rng) for _ in range(2000))]
    drops = [case.level - run.level for case, run, _, _ in played]
    assert all(drops.count(drop) > least for drop, least in ((0, 400), (1, 100), (2, 50), (3, 10)))
    assert sum(run.lowered_from not in (None, case.level) for case, run, _, _ in played) > 4


@given(st.integers(0, 2**32 - 1))
def test_floors_are_never_broken(seed: int) -> None:
    """A level only falls, where it may, to no less than either floor, and not while there is time."""
    rng = np.random.default_rng(seed)
    for case in (draw(rng) for _ in range(RUNS)):
        before = case.level
        for n, level in enumerate(play(case)[1]):
            assert level <= before
            if level < before:
                assert level >= case.terms.lowest_level
                assert case.table.accuracy[before, level, n] >= case.terms.least_accuracy
            before = level
        assert play(case._replace(terms=replace(case.terms, budget_ms=math.inf)))[0].level == case.level


def choose(n: int, elapsed_ms: float, budget_ms: float, lately: Seen | None = None, **options: Any) -> int:
    """At level 2 of levels that take 2, 4 and 8 ms, with four even operators and no reserve; on time unless told."""
    terms = RunTerms(**{"level_ms": (2.0, 4.0, 8.0), "budget_ms": budget_ms, "slowdown": 1.0, "margin": 0.0, **options})
    return decide(even_table(3, 4), terms, 2, n, elapsed_ms, lately or Seen(elapsed_ms, elapsed_ms))


def test_the_level_falls_as_late_and_as_little_as_is_in_time() -> None:
    """Four operators of 2 ms each at level 2, 1 ms at level 1, 0.5 ms at level 0; on time so far."""
    assert choose(1, 2.0, 8.0) == 2
    assert choose(1, 2.0, 7.9) == 2  # level 1 from operator 3 on is enough
    assert choose(1, 2.0, 6.0) == 2  # from operator 2 on
    assert choose(3, 6.0, 7.0) == 1
    assert choose(3, 6.0, 6.9) == 0
    assert choose(1, 2.0, 5.0) == 1
    assert choose(1, 2.0, 4.9) == 0
    assert choose(2, 4.0, 4.9) == 0
    assert choose(2, 4.0, 0.0) == 0  # it is late whatever it does, and ends the sooner


@pytest.mark.parametrize(("late_from", "fell_at"), [(1, 2), (3, 6), (7, None)])
def test_a_run_that_becomes_late_falls_at_the_next_layer_that_allows_it(late_from: int, fell_at: int | None) -> None:
    """Eight operators, of which the third and the seventh allow it; after the last of them the run stays as it is."""
    table = even_table(2, 8)
    some = np.where(np.isin(np.arange(8), (2, 6)), table.accuracy, NAN)
    terms = RunTerms((4.0, 16.0), 20.0, 1.0)
    case = Case(replace(table, accuracy=some), terms, 1, tuple(1.0 if n < late_from else 9.0 for n in range(8)))
    run, levels, starts_ns = play(case)
    assert levels == [1] * (8 if fell_at is None else fell_at) + [0] * (0 if fell_at is None else 8 - fell_at)
    assert run.lowered_at == fell_at
    guard = armed(case)
    assert [arrive_at(guard._run, start_ns) for start_ns in starts_ns] == levels


def test_the_level_does_not_fall_where_the_run_would_end_no_sooner() -> None:
    """A lower level that takes as long is not chosen."""
    assert choose(1, 2.0, 1.0, level_ms=(8.0, 8.0, 8.0)) == 2


def test_a_disturbance_seen_counts_more_the_longer_it_lasts() -> None:
    """Beside a neighbour the rest will take twice as long: with 9 ms the run falls where it would not when on time."""
    assert choose(2, 4.5, 9.0, Seen(4.5, 4.5)) == 2
    assert choose(2, 4.5, 9.0, Seen(9.0, 4.5)) < 2


@given(st.lists(st.floats(0.01, 3), min_size=1, max_size=30), st.floats(0.2, 5))
def test_recent_times_show_the_slowdown_of_a_steady_run(steps_ms: list[float], slowdown: float) -> None:
    """After a change it approaches the new slowdown, faster with a shorter memory."""
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
