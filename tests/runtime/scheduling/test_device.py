"""Device: several models in turn, by priority and then by deadline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nested_sparse.runtime.policy.elastic import ElasticPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.scheduling.device import Device
from nested_sparse.runtime.scheduling.request import Request
from nested_sparse.runtime.scheduling.scheduler import Scheduler

X = {"x": np.ones((1, 3), np.float32)}


class Pair:
    """Two models on one device and one virtual clock, served as their worker threads would."""

    def __init__(self, rig: Callable[..., Any], priorities: tuple[int, int]) -> None:
        first = rig()
        self.clock = first.clock
        self.session = first.session
        profile = LatencyProfile((1,), [[2.0], [5.0], [9.0], [14.0]])
        self.device = Device()
        self.models = [
            Scheduler(
                self.session,
                profile,
                ElasticPolicy(profile),
                default_slo_ms=100.0,
                workers=0,
                clock=self.clock,
                device=self.device,
                priority=priority,
            )
            for priority in priorities
        ]
        self.order: list[int] = []

    def submit(self, model: int, slo_ms: float) -> Any:
        future = self.models[model].submit(Request(X, slo_ms=slo_ms))
        future.add_done_callback(lambda done: self.order.append(model) if done.exception() is None else None)
        return future

    def serve(self) -> None:
        while any(self.device.is_turn_of(model._dispatcher) and model.serve_next() for model in self.models):
            pass


def test_equal_models_are_served_by_deadline(rig: Callable[..., Any]) -> None:
    """The earliest deadline is served first, for any model."""
    pair = Pair(rig, (0, 0))
    for model, slo_ms in ((0, 90.0), (1, 60.0), (0, 75.0)):
        pair.submit(model, slo_ms)
    pair.serve()
    assert pair.order == [1, 0, 0]


def test_the_higher_priority_goes_first_whatever_is_due(rig: Callable[..., Any]) -> None:
    """It goes first even if its deadlines are later."""
    pair = Pair(rig, (0, 1))
    for model, slo_ms in ((0, 70.0), (1, 100.0), (1, 90.0)):
        pair.submit(model, slo_ms)
    pair.serve()
    assert pair.order == [1, 1, 0]


def test_one_model_runs_sparser_for_the_others_queue(rig: Callable[..., Any]) -> None:
    """Alone it would be the densest; with five of the other's behind, 8 ms each and all due soon, it is not."""
    alone, crowded = Pair(rig, (0, 0)), Pair(rig, (0, 0))
    for pair, others in ((alone, 0), (crowded, 5)):
        future = pair.submit(0, 60.0)
        for _ in range(others):
            pair.submit(1, 61.0)
        pair.serve()
        assert future.result(0).level.index == (3 if not others else 1)


def test_low_priority_is_shed_where_the_high_one_takes_the_time(rig: Callable[..., Any]) -> None:
    """Eight of the high model, 8 ms each, leave nothing within 50 ms to the other; the high one sheds none."""
    pair = Pair(rig, (0, 5))
    high = [pair.submit(1, 100.0) for _ in range(8)]
    low = pair.submit(0, 50.0)
    assert "shed" in str(low.exception(0))
    pair.serve()
    assert all(future.exception(0) is None for future in high)


def test_a_model_that_leaves_does_not_hold_up_others(rig: Callable[..., Any]) -> None:
    """Its queue is failed, the other goes on."""
    pair = Pair(rig, (0, 9))
    waiting, served = pair.submit(1, 100.0), pair.submit(0, 100.0)
    pair.models[1].close(grace_s=0.0)
    pair.serve()
    assert waiting.exception(0) is not None
    assert served.exception(0) is None


def test_slots_limit_the_runs_at_one_time(rig: Callable[..., Any]) -> None:
    """While the slot is taken no model has a turn; busy_ms is the rest of the run."""
    pair = Pair(rig, (0, 0))
    pair.submit(0, 100.0)
    now_s = pair.clock()
    pair.device.begin(1, now_s + 0.012)
    assert not pair.device.is_turn_of(pair.models[0]._dispatcher)
    assert round(pair.device.busy_ms(now_s + 0.002), 6) == 10.0
    with pair.device.lock:
        assert pair.device.end(1)
        assert not pair.device.end(1)
    assert pair.device.is_turn_of(pair.models[0]._dispatcher)
    assert pair.device.busy_ms(now_s) == 0.0


def test_a_change_of_priority_holds_for_what_waits_already(rig: Callable[..., Any]) -> None:
    pair = Pair(rig, (0, 1))
    for model, slo_ms in ((1, 90.0), (1, 95.0), (0, 100.0)):
        pair.submit(model, slo_ms)
    pair.models[0].change(default_slo_ms=100.0, priority=2)
    pair.serve()
    assert pair.order == [0, 1, 1]
