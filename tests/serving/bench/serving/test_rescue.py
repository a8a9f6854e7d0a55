"""Rescues: the count of pairs, and the verification of lowered runs. No test asserts a time."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chain import counting_chain, write
from nested_sparse.errors import BenchError
from nested_sparse.runtime.rerouting.guard import RouteGuard
from nested_sparse.runtime.rerouting.table import RouteTable
from nested_sparse.runtime.session.session import Session
from nested_sparse.serving.bench.serving.neighbour import Neighbour, pinned
from nested_sparse.serving.bench.serving.rescue import BUSY, IDLE, Pair, Rescue, measure_rescue
from support import layer_record, random_weight

needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """Its levels differ in time: of wide layers, they keep a twentieth, half and nearly all."""
    rng = np.random.default_rng(0)
    weights = [random_weight(rng, f"layer{n}", 256, 256, 4, (0.05, 0.5, 0.95)) for n in range(4)]
    path = write(tmp_path / "wide.safetensors", [layer_record(rng, weight, 3) for weight in weights], 3).path
    with Session(path, threads=1) as session:
        yield session


def test_only_near_misses_count() -> None:
    """Late by less than half an inference of 10 ms; on the deadline is in time."""
    pairs = [
        Pair(20.0, 19.0, 19.0, True, 0.5),  # in time, and lowered for nothing
        Pair(20.0, 20.0, 20.0, False, None),
        Pair(20.0, 21.0, 20.0, True, 0.8),  # rescued
        Pair(20.0, 24.9, 20.1, True, 0.6),  # not
        Pair(20.0, 24.9, 24.9, False, None),  # not
        Pair(20.0, 25.0, 10.0, True, 0.1),  # too far off to count
    ]
    rescue = Rescue(IDLE, 1, 10.0, 0.9, pairs)
    assert rescue.near_misses == pairs[2:5]
    assert (rescue.rescued, rescue.share, rescue.needless) == (1, pytest.approx(1 / 3), 1)
    assert rescue.accuracy_cost == pytest.approx(0.9 - 0.7)
    assert Rescue(IDLE, 1, 10.0, None, pairs).accuracy_cost is None
    assert math.isnan(Rescue(IDLE, 1, 10.0, 0.9).share)


@needs_affinity
def test_pairs_of_every_level_and_condition(session: Session) -> None:
    """In turns; budgets within their limits; lowered runs say what they are expected to score; the affinity is back."""
    before = os.sched_getaffinity(0)
    rescues = measure_rescue(session, RouteTable.measure(session, repeats=3), pairs=5, batch=64)
    assert os.sched_getaffinity(0) == before
    assert [(each.level, each.condition) for each in rescues] == [(2, IDLE), (2, BUSY), (1, IDLE), (1, BUSY)]
    for rescue in rescues:
        assert len(rescue.pairs) == 5
        assert rescue.level_accuracy == session.levels[rescue.level].metrics["accuracy"]
        for pair in rescue.pairs:
            share = pair.budget_ms / rescue.level_ms
            assert 0.5 <= share <= 1 if rescue.condition == IDLE else share == pytest.approx(1.3)
            assert pair.lowered == (pair.accuracy is not None)
            assert pair.accuracy is None or pair.accuracy in (0.9, 0.91)


@needs_affinity
def test_a_lowered_run_with_other_outputs_is_an_error(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared, bit for bit, with a run that is lowered by force at that place. All runs are, given no time."""
    table, run, arm = RouteTable.measure(session, repeats=3), session.run, RouteGuard.arm
    monkeypatch.setattr(RouteGuard, "arm", lambda guard, level, ms, budget_ms, *rest: arm(guard, level, ms, 0.0, *rest))

    def wrong_when_lowered(inputs: Any, level: int = -1, guard: Any = None) -> Any:
        outputs = run(inputs, level, guard=guard)
        if guard is not None and guard.lowering is not None and guard._run.forced_at < 0:
            outputs = {name: array + np.float32(1e-3) for name, array in outputs.items()}
        return outputs

    monkeypatch.setattr(session, "run", wrong_when_lowered)
    with pytest.raises(BenchError, match=r"lowered from level 2 to \d at 'layer\d': outputs \['output'\]"):
        measure_rescue(session, table, levels=[2], pairs=20, batch=64, slowdown=10.0)


def test_sessions_of_several_threads_are_refused(tmp_path: Path) -> None:
    """Pinned to one core, their threads would wait for each other."""
    path = counting_chain(tmp_path / "count.safetensors", 2, 16).path
    with Session(path, threads=2) as session:
        table = RouteTable.measure(session, repeats=3)
        with pytest.raises(BenchError, match="expected a session of 1 thread, got 2"):
            measure_rescue(session, table)


@needs_affinity
def test_neighbour_is_busy_on_its_core_as_planned() -> None:
    """And says so when its time is over; without it, wait() is an error instead of a hang."""
    with pinned() as core:
        assert os.sched_getaffinity(0) == {core}
        with Neighbour(core) as neighbour:
            assert os.sched_getaffinity(neighbour._process.pid) == {core}
            end_s = time.monotonic() + 0.02
            neighbour.plan(time.monotonic(), end_s)
            neighbour.wait()
            assert time.monotonic() >= end_s
            neighbour._process.kill()
            with pytest.raises(BenchError, match="neighbour ended"):
                neighbour.wait()
