"""Scheduler: one request after the other, without threads, on a virtual clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest

from nested_sparse.errors import DeadlineError, InputError, LevelError, OverloadedError
from nested_sparse.runtime.policy.decision import Waiting
from nested_sparse.runtime.policy.elastic import ElasticPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.scheduling.request import Request
from nested_sparse.runtime.scheduling.scheduler import Scheduler
from nested_sparse.runtime.session import LevelCell, Lowering

X = {"x": np.ones((1, 3), np.float32)}


def test_a_response_has_the_served_level_its_times_and_the_reason(rig: Callable[..., Any]) -> None:
    """Level, outputs, microseconds of waiting and computing, and the reason."""
    r = rig()
    future = r.scheduler.submit(Request(X))
    r.clock.advance_to(r.clock() + 0.003)
    assert r.scheduler.serve_next()
    response = future.result(0)
    assert (response.level.index, response.queue_us, response.compute_us) == (3, 3000, 14000)
    np.testing.assert_array_equal(response.outputs["y"], X["x"] + 3)
    assert "densest" in response.reason
    assert not r.scheduler.serve_next()


def test_the_policy_is_told_how_long_a_reply_waited(rig: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """A fault of the policy costs a line in the log, not the answer."""
    r = rig()
    told: list[float] = []
    r.policy.observe_reply = lambda reply_ms, now_s: told.append(reply_ms)
    future = r.scheduler.submit(Request(X))
    r.scheduler.serve_next()
    r.clock.advance_to(r.clock() + 0.007)
    r.scheduler.replied(future.result(0))
    assert told == [pytest.approx(7.0)]
    r.policy.observe_reply = None
    r.scheduler.replied(future.result(0))
    assert "failed to take in a reply" in caplog.text


def test_deadline_counts_from_reception(rig: Callable[..., Any]) -> None:
    """Time spent before submit() is part of the waiting."""
    r = rig()
    future = r.scheduler.submit(Request(X, slo_ms=50.0, received_s=r.clock() - 0.0355))
    r.scheduler.serve_next()
    response = future.result(0)
    assert (response.level.index, response.queue_us) == (1, 35500)
    late = r.scheduler.submit(Request(X, slo_ms=50.0, received_s=r.clock() - 0.045))
    assert isinstance(late.exception(0), DeadlineError)


def test_a_changed_time_holds_for_the_requests_that_come_then(rig: Callable[..., Any]) -> None:
    """For those that state none, and as the most for the others; those that wait keep theirs."""
    r = rig()
    futures = [r.scheduler.submit(Request(X))]
    r.scheduler.change(default_slo_ms=60.0, priority=0)
    futures += [r.scheduler.submit(Request(X, slo_ms=slo_ms)) for slo_ms in (None, 90.0, 50.0)]
    while r.scheduler.serve_next():
        pass
    assert [future.result(0).time_limit_ms for future in futures] == [100.0, 60.0, 60.0, 50.0]
    r.scheduler.change(default_slo_ms=2.5, priority=0)
    with pytest.raises(OverloadedError, match=r"the server grants at most 2\.5"):
        r.scheduler.submit(Request(X)).result(0)
    for wrong in (0.0, float("nan")):
        with pytest.raises(InputError, match="default_slo_ms"):
            r.scheduler.change(default_slo_ms=wrong, priority=0)


def test_earliest_deadline_first(rig: Callable[..., Any]) -> None:
    """The earliest deadline runs first, for any order of arrival."""
    r = rig()
    order: list[float] = []
    for slo_ms in (90.0, 50.0, 70.0):
        r.scheduler.submit(Request(X, slo_ms=slo_ms)).add_done_callback(lambda _, slo_ms=slo_ms: order.append(slo_ms))
    while r.scheduler.serve_next():
        pass
    assert order == [50.0, 70.0, 90.0]


def test_the_higher_priority_first_whatever_is_due(rig: Callable[..., Any]) -> None:
    """Among equal priorities the earliest deadline decides; a request that states none has the middle one."""
    scheduling = rig()
    order: list[str] = []
    for name, slo_ms, priority in (("low", 50.0, 10), ("late", 90.0, None), ("first", 95.0, 1), ("soon", 80.0, 5)):
        future = scheduling.scheduler.submit(Request(X, slo_ms=slo_ms, priority=priority))
        future.add_done_callback(lambda done, name=name: order.append(name))
    while scheduling.scheduler.serve_next():
        pass
    assert order == ["first", "soon", "late", "low"]


def test_a_low_priority_is_shed_where_higher_ones_take_the_time(rig: Callable[..., Any]) -> None:
    """Admission counts the requests that go first, also those that are due later."""
    scheduling = rig()
    for _ in range(20):
        scheduling.scheduler.submit(Request(X, slo_ms=100.0, priority=1))
    with pytest.raises(OverloadedError, match="shed: level 0"):
        scheduling.scheduler.submit(Request(X, slo_ms=20.0, priority=2)).result(0)
    assert not scheduling.scheduler.submit(Request(X, slo_ms=20.0, priority=1)).done()


def test_an_expired_request_is_never_run(rig: Callable[..., Any]) -> None:
    """It ends with DeadlineError, and the next in the queue is served."""
    r = rig()
    expired, alive = (r.scheduler.submit(Request(X, slo_ms=slo_ms)) for slo_ms in (20.0, 100.0))
    r.clock.advance_to(r.clock() + 0.03)
    r.scheduler.serve_next()
    assert isinstance(expired.exception(0), DeadlineError)
    assert alive.result(0).level.index == 3
    assert len(r.session.runs) == 1


def test_a_cancelled_request_is_never_run_and_frees_its_place(rig: Callable[..., Any]) -> None:
    """A cancelled request frees the queue at once."""
    r = rig(max_queue=1)
    first = r.scheduler.submit(Request(X))
    assert isinstance(r.scheduler.submit(Request(X)).exception(0), OverloadedError)
    assert first.cancel()
    assert r.scheduler.stats().queue_length == 0
    second = r.scheduler.submit(Request(X))
    while r.scheduler.serve_next():
        pass
    assert second.result(0).level.index == 3
    assert len(r.session.runs) == 1


def test_a_limit_holds_for_those_that_leave_a_choice(rig: Callable[..., Any]) -> None:
    """Heat caps the level at 1; an explicit level and a floor above it are obeyed all the same."""
    r = rig()
    r.scheduler.limit(1, "heat")
    asked = [{}, {"level": 3}, {"min_accuracy": 0.94}]
    futures = [r.scheduler.submit(Request(X, **fields)) for fields in asked]
    while r.scheduler.serve_next():
        pass
    assert [future.result(0).level.index for future in futures] == [1, 3, 2]
    assert "capped by heat" in futures[0].result(0).reason
    r.scheduler.limit(3, "cool again")
    future = r.scheduler.submit(Request(X))
    r.scheduler.serve_next()
    assert future.result(0).level.index == 3


class LoweringGuard:
    """A Guard that lowers every run to the lowest level that it may fall to."""

    def __init__(self) -> None:
        self.level = 0
        self.lowering: Lowering | None = None
        self.nominal_ms = 4.0

    def arm(
        self,
        level: int,
        level_ms: Sequence[float],
        budget_ms: float,
        slowdown: float,
        *,
        least_accuracy: float = 0.0,
        lowest_level: int = 0,
    ) -> None:
        self.armed = (level, level_ms, budget_ms, least_accuracy, lowest_level)
        self.level, self.lowering = lowest_level, Lowering(level, "conv2", level, 0.5)

    def tighten(self, left_ms: float) -> None:
        """Its runs end at once."""

    def running(self, level: int, level_count: int) -> AbstractContextManager[LevelCell]:
        return nullcontext(LevelCell(level))


def test_a_run_that_was_lowered_is_reported_so(rig: Callable[..., Any]) -> None:
    """Level it ended at, where it fell, and the accuracy of that route; levels that may not fall get no guard."""
    r = rig()
    guard = LoweringGuard()
    r.session.run = lambda inputs, level, guard=None, run=r.session.run: run(inputs, level)  # knows no such guard
    scheduler = Scheduler(
        r.session,
        LatencyProfile((1,), [[2.0], [5.0], [9.0], [14.0]]),
        r.policy,
        default_slo_ms=100.0,
        workers=0,
        clock=r.clock,
        guard=lambda: guard,
    )
    served = []
    for fields in ({"min_accuracy": 0.91}, {"level": 2}):
        future = scheduler.submit(Request(X, **fields))
        scheduler.serve_next()
        served.append(future.result(0))
    assert (served[0].level.index, served[0].lowering, served[0].accuracy) == (1, Lowering(3, "conv2", 3, 0.5), 0.5)
    level, level_ms, budget_ms, least_accuracy, lowest = guard.armed
    assert (level, level_ms, least_accuracy, lowest) == (3, [2.0, 5.0, 9.0, 14.0], 0.91, 1)
    assert budget_ms == pytest.approx(90.0)
    assert (served[1].level.index, served[1].lowering, served[1].accuracy) == (2, None, 0.95)


def test_hopeless_request_is_shed_at_once_with_a_hint(rig: Callable[..., Any]) -> None:
    """100.1 ms leave 90 for runs, 45 of 2 ms at the lowest level: the 46th is told to come back after them."""
    r = rig(default_slo_ms=100.1)
    futures = [r.scheduler.submit(Request(X)) for _ in range(50)]
    assert [future.done() for future in futures] == [False] * 45 + [True] * 5
    shed = futures[-1].exception(0)
    assert isinstance(shed, OverloadedError)
    assert shed.retry_after_ms == pytest.approx(90.0)
    assert all(isinstance(future.exception(0), OverloadedError) for future in futures[-5:])


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"inputs": {}}, InputError),
        ({"inputs": {"x": np.ones((1, 4), np.float32)}}, InputError),
        ({"level": 4}, LevelError),
        ({"min_accuracy": 0.99}, InputError),
        ({"slo_ms": -1.0}, InputError),
        ({"priority": 0}, InputError),
        ({"priority": 11}, InputError),
    ],
)
def test_bad_requests_fail_through_the_future(rig: Callable[..., Any], fields: dict[str, Any], kind: type) -> None:
    """submit() does not raise, and nothing is queued."""
    r = rig()
    assert isinstance(r.scheduler.submit(Request(**{"inputs": X, **fields})).exception(0), kind)
    assert r.scheduler.stats().queue_length == 0


@pytest.mark.parametrize(("fields", "level"), [({"level": 1}, 1), ({"level": -1}, 3), ({"min_accuracy": 0.94}, 2)])
def test_explicit_level_and_accuracy_floor_are_obeyed(
    rig: Callable[..., Any], fields: dict[str, Any], level: int
) -> None:
    """Under pressure too: 30 requests behind would send a free one below the densest level."""
    r = rig()
    futures = [r.scheduler.submit(Request(X, slo_ms=80.0)) for _ in range(30)]
    first = r.scheduler.submit(Request(X, slo_ms=79.0, **fields))
    r.scheduler.serve_next()
    assert first.result(0).level.index == level
    r.scheduler.serve_next()
    assert futures[0].result(0).level.index < 3


def test_the_default_slo_is_an_upper_limit_for_the_clients(rig: Callable[..., Any]) -> None:
    """A client cannot wait longer than the server's SLO."""
    r = rig(default_slo_ms=10.0)
    future = r.scheduler.submit(Request(X, slo_ms=1e6))
    r.scheduler.serve_next()
    assert future.result(0).level.index == 1


def test_batch_is_part_of_the_prediction(rig: Callable[..., Any]) -> None:
    """Five samples cost five times as much."""
    r = rig()
    future = r.scheduler.submit(Request({"x": np.ones((5, 3), np.float32)}))
    r.scheduler.serve_next()
    assert future.result(0).level.index == 3
    assert future.result(0).compute_us == 70_000
    future = r.scheduler.submit(Request({"x": np.ones((5, 3), np.float32)}, slo_ms=55.0))
    r.scheduler.serve_next()
    assert future.result(0).level.index == 2


def test_time_between_runs_counts_as_work(rig: Callable[..., Any]) -> None:
    """3 ms between a run and the next that was waiting: predictions learn to include them; idle times they ignore."""
    r = rig(default_slo_ms=10_000.0)
    for _ in range(100):
        r.scheduler.submit(Request(X, level=0))
    while r.scheduler.serve_next():
        r.clock.advance_to(r.clock() + 0.003)
    assert r.policy.choose(Waiting(r.clock() + 9.0, 0, 0), [], r.clock()).predicted_ms == pytest.approx(5.0, rel=0.02)
    r.clock.advance_to(r.clock() + 5.0)
    r.scheduler.submit(Request(X, level=0))
    r.scheduler.serve_next()
    assert r.policy.choose(Waiting(r.clock() + 9.0, 0, 0), [], r.clock()).predicted_ms == pytest.approx(5.0, rel=0.02)


def test_profile_of_another_model_is_refused(rig: Callable[..., Any]) -> None:
    """A profile with fewer levels than the checkpoint has."""
    r = rig()
    profile = LatencyProfile((1,), [[1.0]])
    with pytest.raises(InputError, match="the profile has 1 levels, the checkpoint 4"):
        Scheduler(r.session, profile, ElasticPolicy(profile), default_slo_ms=10.0, workers=0)
    with pytest.raises(InputError, match="default_slo_ms"):
        Scheduler(r.session, profile, ElasticPolicy(profile), default_slo_ms=0.0, workers=0)
