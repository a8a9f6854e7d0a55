"""Guard: runs on real sessions whose operators lower their own level."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chain import counting_chain, write
from nested_sparse.errors import InputError, KernelError, LevelError
from nested_sparse.kernels.guarded_run import guarding
from nested_sparse.reroute import Reroute
from nested_sparse.runtime.rerouting.guard import RouteGuard
from nested_sparse.runtime.rerouting.rule import RuledRun, RunTerms
from nested_sparse.runtime.rerouting.table import RouteTable
from nested_sparse.runtime.session.bound_session import BoundSession
from nested_sparse.runtime.session.level_cell import LevelCell
from nested_sparse.runtime.session.lowering import Lowering
from nested_sparse.runtime.session.session import Session
from support import layer_record, random_weight

LAYERS, WIDTH, LEVELS = 12, 8, 3
LEVEL_MS = (1.0, 2.0, 4.0)
X = {"input": np.zeros((2, WIDTH), np.float32)}


def even_table(operators: int = LAYERS, level_count: int = LEVELS) -> RouteTable:
    """Every operator takes the same share of its level; the level may fall everywhere."""
    share = np.tile(1 - np.arange(operators) / operators, (level_count, 1))
    accuracy = np.full((level_count, level_count, operators), math.nan)
    for end in range(level_count):
        accuracy[end + 1 :, end] = 0.5 + end / 100
    return RouteTable(tuple(f"layer{n}" for n in range(operators)), share, accuracy)


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Its output is the sum of the levels that its layers ran at."""
    path = counting_chain(tmp_path_factory.mktemp("chain") / "count.safetensors", LAYERS, WIDTH, LEVELS).path
    with Session(path, threads=1) as session:
        yield session


def total(session: Session, level: int, guard: RouteGuard | None) -> float:
    y = session.run(X, level, guard=guard)["output"]
    assert np.all(y == y[0, 0])
    return float(y[0, 0])


def test_forced_lowering_equals_layers_at_two_levels(tmp_path: Path) -> None:
    """At every layer and for all pairs of levels, numpy gives the same with each layer at its level."""
    rng = np.random.default_rng(3)
    weights = [
        random_weight(rng, "first", 13, 24, block_rows=4),
        random_weight(rng, "second", 16, 13, block_rows=2, permuted=True),
        random_weight(rng, "third", 5, 16, block_rows=1),
    ]
    written = write(tmp_path / "m.safetensors", [layer_record(rng, weight, 3) for weight in weights], 3)
    x = {"input": rng.standard_normal((3, 24)).astype(np.float32)}
    with Session(written.path, threads=1) as session:
        table = RouteTable.measure(session, repeats=3)
        assert table.layers == ("first", "second", "third")
        guard = RouteGuard(table)
        for start, end in ((1, 0), (2, 0), (2, 1)):
            for place, layer in enumerate(table.layers):
                guard.force(start, end, layer)
                y = session.run(x, start, guard=guard)["output"]
                expected = written.reference(x["input"], [start] * place + [end] * (3 - place))
                np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
                assert np.abs(y - session.run(x, start)["output"]).max() > 1e-3
                assert (guard.level, guard.lowering) == (end, Lowering(start, layer, start, 0.9 + end / 100))


def test_ample_budget_lowers_nothing(counting: Session) -> None:
    """No level is lowered."""
    guard = RouteGuard(even_table())
    for level in range(LEVELS):
        guard.arm(level, LEVEL_MS, 1e6, 1.0)
        assert total(counting, level, guard) == level * LAYERS
        assert (guard.level, guard.lowering, guard.nominal_ms) == (level, None, LEVEL_MS[level])


def test_without_any_budget_the_lowest_level_runs(counting: Session) -> None:
    """The lowest level runs from the first operator on."""
    guard = RouteGuard(even_table())
    guard.arm(2, LEVEL_MS, 0.0, 1.0)
    assert total(counting, 2, guard) == 0
    assert (guard.level, guard.lowering) == (0, Lowering(2, "layer0", 2, 0.5))
    assert guard.nominal_ms == pytest.approx(LEVEL_MS[0])


def test_floors_hold_in_a_run(counting: Session) -> None:
    """A floor holds at any time."""
    guard = RouteGuard(even_table())
    guard.arm(2, LEVEL_MS, 0.0, 1.0, lowest_level=1)
    assert total(counting, 2, guard) == LAYERS
    guard.arm(2, LEVEL_MS, 0.0, 1.0, least_accuracy=0.505)
    assert total(counting, 2, guard) == LAYERS
    assert (guard.level, guard.lowering) == (1, Lowering(2, "layer0", 2, 0.51))
    guard.arm(2, LEVEL_MS, 0.0, 1.0, least_accuracy=0.9)
    assert total(counting, 2, guard) == 2 * LAYERS


def test_a_rank_is_not_reported_as_an_accuracy(counting: Session) -> None:
    """The operators fall by the ranks of a file that states no accuracy; the lowering then has none."""
    even = even_table()
    ranks = np.where(np.isnan(even.accuracy), math.nan, np.arange(LEVELS)[np.newaxis, :, np.newaxis])
    guard = RouteGuard(RouteTable(even.layers, even.remaining_share, np.full_like(ranks, math.nan), ranks))
    guard.arm(2, LEVEL_MS, 0.0, 1.0)
    assert total(counting, 2, guard) == 0
    assert guard.lowering == Lowering(2, "layer0", 2, None)


def random_table(rng: np.random.Generator) -> RouteTable:
    """Shares and scores that have nothing to do with the model; half of the operators are no cuts."""
    share = np.sort(rng.random((LEVELS, LAYERS)), axis=1)[:, ::-1]
    accuracy = rng.choice([math.nan, 0.5, 0.6, 0.7], (LEVELS, LEVELS, LAYERS))
    accuracy[:, :, rng.random(LAYERS) < 0.5] = math.nan
    accuracy[np.triu_indices(LEVELS)] = math.nan
    return RouteTable(tuple(f"layer{n}" for n in range(LAYERS)), share, accuracy)


def test_a_run_decides_as_the_reference_does(counting: Session) -> None:
    """Replayed from the starts that its operators recorded: each decision, in order, by the rule in Python.

    The guard is told half the time that a run takes, so that it sees a slowdown, and some runs fall on their way.
    """
    x = {"input": np.zeros((20_000, WIDTH), np.float32)}  # milliseconds, so that what was seen lately counts
    rng = np.random.default_rng(7)
    recorder = RouteGuard(even_table(), record=LAYERS)
    recorder.arm(2, LEVEL_MS, 1e6, 1.0)
    counting.run(x, 2, guard=recorder)
    whole_ms = recorder.starts[-1][1]
    level_ms = [whole_ms / 8, whole_ms / 4, whole_ms / 2]
    endings = set()
    # the ends are there whatever the measured run was disturbed by: no time at all, and time without end
    for budget_ms in (*np.linspace(0.3, 1.3, 60) * whole_ms, *[0.0] * 20, 1e9):
        guard = RouteGuard(random_table(rng), record=LAYERS)
        guard.arm(2, level_ms, budget_ms, 1.0)
        y = counting.run(x, 2, guard=guard)["output"]
        run = RuledRun(guard.table, RunTerms(level_ms, budget_ms, 1.0), 2)
        levels = [run.arrive(n, start_ms) for n, (_, start_ms) in enumerate(guard.starts)]
        assert np.all(y == sum(levels))
        assert guard.level == levels[-1]
        assert guard.nominal_ms == run.nominal_ms
        endings.add(tuple(sorted(set(levels))))
    assert endings >= {(2,), (0, 2)}


def test_layers_are_learnt_in_the_order_they_run(counting: Session) -> None:
    """With shares that fall; no reroutes in the file: the level may fall everywhere, for what the lower one scores."""
    table = RouteTable.measure(counting, batch=2, repeats=3)
    assert table.layers == tuple(f"layer{n}" for n in range(LAYERS))
    assert np.all(np.diff(table.remaining_share, axis=1) <= 0)
    assert np.all((table.remaining_share >= 0) & (table.remaining_share <= 1))
    np.testing.assert_array_equal(table.accuracy[2, 0], 0.9)


def test_reroutes_of_the_file_say_where_the_level_may_fall(tmp_path: Path) -> None:
    """They also have the accuracy of each route."""
    reroutes = [Reroute(1, 0, {"layer2": 0.6, "layer5": 0.8})]
    path = counting_chain(tmp_path / "m.safetensors", 6, WIDTH, 2, reroutes).path
    with Session(path, threads=1) as session:
        table = RouteTable.measure(session, repeats=3)
        np.testing.assert_array_equal(table.accuracy[1, 0], [0.9, math.nan, 0.6, math.nan, math.nan, 0.8])
        shares = np.tile(np.linspace(1.0, 0.1, 6), (2, 1))  # measured ones may say that a fall gains no time
        guard = RouteGuard(dataclasses.replace(table, remaining_share=shares))
        guard.arm(1, [9.0, 10.0], 0.0, 1.0, least_accuracy=0.7)
        assert total(session, 1, guard) in (0, 5)  # at the first layer or the last, never at layer2


def test_a_layer_used_again_is_an_operator_of_its_own(tmp_path: Path) -> None:
    """Lowered at its second use, the first has run at the level before."""
    rng = np.random.default_rng(5)
    twice = layer_record(rng, random_weight(rng, "twice", 16, 16), 3)
    last = layer_record(rng, random_weight(rng, "last", 5, 16), 3)
    written = write(tmp_path / "m.safetensors", [twice, twice, last], 3)
    x = {"input": rng.standard_normal((3, 16)).astype(np.float32)}
    with Session(written.path, threads=1) as session:
        table = RouteTable.measure(session, repeats=3)
        assert table.layers == ("twice", "twice.1", "last")
        guard = RouteGuard(table)
        guard.force(2, 0, "twice.1")
        y = session.run(x, 2, guard=guard)["output"]
        np.testing.assert_allclose(y, written.reference(x["input"], [2, 0, 0]), rtol=1e-4, atol=1e-4)


def test_more_operators_than_the_table_has(counting: Session) -> None:
    """Nothing is decided past its end, and nothing written past what is recorded."""
    guard = RouteGuard(even_table(4), record=3)
    room = np.full(9, -7, np.int64)
    guard._run.started_ns = room[3:].ctypes.data
    guard.force(2, 0, "layer3")
    assert total(counting, 2, guard) == 3 * 2
    assert (room[[0, 1, 2, 6, 7, 8]] == -7).all()
    assert (room[3:6] > 0).all()
    assert (guard.operator_count, len(guard.starts)) == (LAYERS, 3)
    share = np.ones((LEVELS, 1))  # all is left at the only operator, which may not lower: no place to fall
    nowhere = RouteTable(("layer0",), share, np.full((LEVELS, LEVELS, 1), math.nan))
    guard = RouteGuard(nowhere)
    guard.arm(2, LEVEL_MS, 0.0, 1.0)
    assert total(counting, 2, guard) == 2 * LAYERS


def test_concurrent_guarded_runs_do_not_mix(counting: Session) -> None:
    """Six threads, each lowered at a layer of its own, and some not at all."""
    wrong: list[tuple[int, float]] = []

    def client(number: int) -> None:
        guard = RouteGuard(even_table())
        for i in range(150):
            place = (number + i) % LAYERS
            guard.force(2, number % 2, f"layer{place}")
            expected = 2 * place + (number % 2) * (LAYERS - place)
            if (y := total(counting, 2, guard)) != expected:
                wrong.append((number, y))
            if (y := total(counting, 2, None)) != 2 * LAYERS:
                wrong.append((number, y))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_runs_that_raise_leave_nothing_guarded(tmp_path: Path) -> None:
    """Thousands of them: a guarded run still starts, and one without a guard is not lowered."""
    path = counting_chain(tmp_path / "m.safetensors", 2, WIDTH, 2).path
    with Session(path, threads=1) as session:
        guard = RouteGuard(even_table(2, 2))
        good, mixed = session._ort, {**session._segments, "__segment_1__": session._segments["__segment_0__"]}
        assert good is not None
        wrong = BoundSession(good.session, mixed, session.inputs, session.outputs)
        for attempt in range(2000):
            guard.arm(1, [1.0, 2.0], 0.0, 1.0, lowest_level=1)
            session._ort = wrong if attempt % 2 else good
            try:
                session.run(X, 1, guard=guard)
            except (KernelError, InputError):
                assert attempt % 2
            else:
                assert not attempt % 2
        session._ort = good
        with guarding(guard._run):
            assert total(session, 1, None) == 2
        guard.arm(1, [1.0, 2.0], 0.0, 1.0)
        assert total(session, 1, guard) == 0


def test_resident_level_is_that_of_the_start(counting: Session) -> None:
    """The first layers read the denser level's pages."""
    counting.resident_level = 0
    guard = RouteGuard(even_table())
    guard.force(2, 0, "layer4")
    total(counting, 2, guard)
    assert counting.resident_level == 2


def test_guards_and_tables_outlive_a_change_of_threads(tmp_path: Path) -> None:
    """A table measured with one thread lowers at the same layers after the graph gets a new thread pool."""
    path = counting_chain(tmp_path / "count.safetensors", LAYERS, WIDTH, LEVELS).path
    with Session(path, threads=1) as session:
        guard = RouteGuard(even_table())
        sums = []
        for threads in (1, 3, 1):
            session.threads = threads
            for n in range(LAYERS):
                guard.force(2, 0, f"layer{n}")
                sums.append(total(session, 2, guard))
        assert sums == [2.0 * n for n in range(LAYERS)] * 3


def test_guards_are_armed_for_the_run_they_are_given_to(counting: Session) -> None:
    """Once, for its level and its model, by one run at a time."""
    guard = RouteGuard(even_table())
    with pytest.raises(InputError, match="not armed"):
        counting.run(X, 2, guard=guard)
    guard.arm(2, LEVEL_MS, 1e6, 1.0)
    with pytest.raises(InputError, match="armed for level 2 of 3, and the run is at level 1 of 3"):
        counting.run(X, 1, guard=guard)
    with pytest.raises(InputError, match="not a LevelCell"):
        counting.run(X, LevelCell(2), guard=guard)
    assert total(counting, -1, guard) == 2 * LAYERS
    with pytest.raises(InputError, match="not armed"):
        counting.run(X, 2, guard=guard)
    other = RouteGuard(even_table(level_count=2))
    other.arm(1, [1.0, 2.0], 1e6, 1.0)
    with pytest.raises(InputError, match="of 2, and the run is at level 1 of 3"):
        counting.run(X, 1, guard=other)
    guard.arm(2, LEVEL_MS, 1e6, 1.0)
    with guard.running(2, LEVELS):
        with pytest.raises(InputError, match="in use"):
            counting.run(X, 2, guard=guard)
        with pytest.raises(InputError, match="in use"):
            guard.arm(2, LEVEL_MS, 1e6, 1.0)
        other.arm(1, [1.0, 2.0], 1e6, 1.0)
        with pytest.raises(InputError, match="inside a guarded run"), other.running(1, 2):
            pass


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"level": 3}, LevelError, "level 3 is out of range 0 to 2"),
        ({"level_ms": [1.0]}, InputError, "a time for 3 levels, got 1"),
        ({"level_ms": [0.0, 1.0, 2.0]}, InputError, "above 0"),
        ({"slowdown": 0.0}, InputError, "above 0"),
        ({"budget_ms": math.nan}, InputError, "budget_ms nan"),
        ({"lowest_level": 3}, LevelError, "lowest_level 3"),
    ],
)
def test_arming_with_nonsense_is_refused(change: dict[str, Any], error: type[Exception], words: str) -> None:
    """The guard stays unarmed."""
    guard = RouteGuard(even_table())
    with pytest.raises(error, match=words):
        guard.arm(**{"level": 2, "level_ms": LEVEL_MS, "budget_ms": 1.0, "slowdown": 1.0, **change})
    with pytest.raises(InputError, match="not armed"), guard.running(0, LEVELS):
        pass


def test_forcing_up_or_nowhere_is_refused() -> None:
    """A reroute goes down, at an operator."""
    guard = RouteGuard(even_table())
    with pytest.raises(LevelError, match="goes down"):
        guard.force(1, 1, "layer0")
    with pytest.raises(InputError, match="no operator 'gone'"):
        guard.force(1, 0, "gone")
