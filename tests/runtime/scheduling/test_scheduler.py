from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest

from nested_sparse.errors import DeadlineError, InputError, LevelError, OverloadedError, StuckError, UnavailableError
from nested_sparse.runtime.policy.decision import Decision, Waiting
from nested_sparse.runtime.policy.elastic import ElasticPolicy
from nested_sparse.runtime.policy.fixed import FixedPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.resources.monitor import ResourceMonitor
from nested_sparse.runtime.scheduling.request import Request, Response
from nested_sparse.runtime.scheduling.scheduler import Scheduler
from nested_sparse.runtime.session import LevelCell, Lowering
from nested_sparse.tensor_spec import TensorSpec

X = {"x": np.ones((1, 3), np.float32)}


class GatedSession:
    """Really waits in run() until let go; what a worker thread is tested with."""

    def __init__(self, fake: Any) -> None:
        self.name, self.inputs, self.outputs, self.levels = fake.name, fake.inputs, fake.outputs, fake.levels
        self.rows, self.stop_run = fake.rows, fake.stop_run
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.fault: BaseException | None = None

    def run(self, inputs: dict[str, np.ndarray], level: int) -> dict[str, np.ndarray]:
        self.entered.release()
        assert self.gate.acquire(timeout=20)
        if self.fault is not None:
            raise self.fault
        return {"y": inputs["x"] * 2}


@pytest.fixture
def gated(rig: Callable[..., Any]) -> GatedSession:
    return GatedSession(rig().session)


def threaded(session: GatedSession, **options: Any) -> Scheduler:
    profile = LatencyProfile((1,), [[0.01]] * len(session.levels))
    settings = {"default_slo_ms": 60_000.0, **options}
    return Scheduler(session, profile, ElasticPolicy(profile), **settings)


def test_response_says_what_was_served_and_where_the_time_went(rig: Callable[..., Any]) -> None:
    """Level, outputs, microseconds of waiting and computing, and the reason."""
    r = rig()
    future = r.scheduler.submit(Request(X))
    r.clock.advance(0.003)
    assert r.scheduler.serve_next()
    response = future.result(0)
    assert (response.level.index, response.queue_us, response.compute_us) == (3, 3000, 14000)
    np.testing.assert_array_equal(response.outputs["y"], X["x"] + 3)
    assert "densest" in response.reason
    assert r.scheduler.stats().served == (0, 0, 0, 1)
    assert not r.scheduler.serve_next()


def test_deadline_counts_from_reception(rig: Callable[..., Any]) -> None:
    """Time spent before submit() is part of the waiting."""
    r = rig()
    future = r.scheduler.submit(Request(X, slo_ms=50.0, received_s=r.clock() - 0.0355))
    r.scheduler.serve_next()
    response = future.result(0)
    assert (response.level.index, response.queue_us) == (1, 35500)
    late = r.scheduler.submit(Request(X, slo_ms=50.0, received_s=r.clock() - 0.045))
    assert isinstance(late.exception(0), DeadlineError)
    assert r.scheduler.stats().expired == 1


def test_earliest_deadline_first(rig: Callable[..., Any]) -> None:
    """Whatever the order of arrival."""
    r = rig()
    order: list[float] = []
    for slo_ms in (90.0, 50.0, 70.0):
        r.scheduler.submit(Request(X, slo_ms=slo_ms)).add_done_callback(lambda _, slo_ms=slo_ms: order.append(slo_ms))
    while r.scheduler.serve_next():
        pass
    assert order == [50.0, 70.0, 90.0]


def test_expired_is_never_run(rig: Callable[..., Any]) -> None:
    """It ends with DeadlineError, and the next in the queue is served."""
    r = rig()
    expired, alive = (r.scheduler.submit(Request(X, slo_ms=slo_ms)) for slo_ms in (20.0, 100.0))
    r.clock.advance(0.03)
    r.scheduler.serve_next()
    assert isinstance(expired.exception(0), DeadlineError)
    assert alive.result(0).level.index == 3
    assert len(r.session.runs) == 1


def test_cancelled_is_never_run_and_leaves_its_place(rig: Callable[..., Any]) -> None:
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
    stats = r.scheduler.stats()
    assert (stats.cancelled, stats.shed, len(r.session.runs)) == (1, 1, 1)


class Batched:
    """A session that adds a known number to each row, and says that its outputs have a row per sample."""

    def __init__(self, rig: Any, fail_above: int = 1000) -> None:
        fake, self.clock = rig.session, rig.clock
        self.rows: str | None = "independent"
        self.name, self.inputs, self.outputs, self.levels = fake.name, fake.inputs, fake.outputs, fake.levels
        self.stop_run = fake.stop_run
        self.sizes: list[int] = []
        self._fail_above = fail_above

    def run(self, inputs: dict[str, np.ndarray], level: int) -> dict[str, np.ndarray]:
        self.sizes.append(len(inputs["x"]))
        if len(inputs["x"]) > self._fail_above or np.isnan(inputs["x"]).any():
            raise RuntimeError("cannot")
        self.clock.advance(0.001)
        return {"y": inputs["x"] * 10}


def batching(session: Batched, joins: bool | None = None) -> Scheduler:
    """Four together cost as much as one."""
    profile = LatencyProfile((1, 2, 4), [[8.0] * 3] * 4)
    settings: dict[str, Any] = {"default_slo_ms": 100.0, "workers": 0, "clock": session.clock, "joins": joins}
    return Scheduler(session, profile, ElasticPolicy(profile), **settings)


def rows(*values: float) -> dict[str, np.ndarray]:
    return {"x": np.array([[value] * 3 for value in values], np.float32)}


def test_a_batch_gives_each_request_its_own_rows(rig: Callable[..., Any]) -> None:
    """Requests of 1, 2 and 1 samples in one run; the fifth sample waits for the next."""
    session = Batched(rig())
    scheduler = batching(session)
    futures = [scheduler.submit(Request(rows(*values))) for values in ((1.0,), (2.0, 3.0), (4.0,), (5.0,))]
    assert scheduler.serve_next()
    assert [future.done() for future in futures] == [True, True, True, False]
    for future, values in zip(futures, ((1.0,), (2.0, 3.0), (4.0,)), strict=False):
        np.testing.assert_array_equal(future.result(0).outputs["y"], rows(*values)["x"] * 10)
        assert future.result(0).batch == 4
    scheduler.serve_next()
    assert session.sizes == [4, 1]
    stats = scheduler.stats()
    assert (sum(stats.served), stats.batched) == (4, 3)


@pytest.mark.parametrize(("rows_", "joins"), [("dependent", None), (None, None), ("independent", False)])
def test_only_independent_rows_are_joined(rig: Callable[..., Any], rows_: str | None, joins: bool | None) -> None:
    """Not where the file says otherwise or nothing, or the server has found otherwise; times are those of one run."""
    session = Batched(rig())
    session.rows = rows_
    scheduler = batching(session, joins=joins)
    futures = [scheduler.submit(Request(rows(value))) for value in (1.0, 2.0, 3.0)]
    for _ in futures:
        scheduler.serve_next()
    assert session.sizes == [1, 1, 1]
    assert [future.result(0).batch for future in futures] == [1, 1, 1]
    assert scheduler.stats().batched == 0


def test_what_is_known_to_be_independent_is_joined_whatever_the_file_says(rig: Callable[..., Any]) -> None:
    """An old file says nothing; who has looked at it may say."""
    session = Batched(rig())
    session.rows = None
    scheduler = batching(session, joins=True)
    futures = [scheduler.submit(Request(rows(value))) for value in (1.0, 2.0)]
    scheduler.serve_next()
    assert (session.sizes, [future.result(0).batch for future in futures]) == ([2], [2, 2])


def test_inputs_of_unequal_batches_are_never_joined(rig: Callable[..., Any]) -> None:
    """A model may broadcast one row to several: joined, two such requests would fit and take each other's rows."""

    class Broadcast(Batched):
        def __init__(self, rig: Any) -> None:
            super().__init__(rig)
            self.inputs = (self.inputs[0], TensorSpec("b", "float32", (None, 3), (1, 3)))

        def run(self, inputs: dict[str, np.ndarray], level: int) -> dict[str, np.ndarray]:
            self.sizes.append(len(inputs["x"]))
            return {"y": inputs["x"] + inputs["b"]}

    session = Broadcast(rig())
    scheduler = batching(session)
    given = [((1.0,), (10.0, 20.0)), ((2.0, 3.0), (30.0,)), ((4.0,), (40.0,)), ((5.0,), (50.0,))]
    futures = [scheduler.submit(Request({**rows(*x), "b": rows(*b)["x"]})) for x, b in given]
    while scheduler.serve_next():
        pass
    got = [future.result(0).outputs["y"][:, 0].tolist() for future in futures]
    assert got == [[11.0, 21.0], [32.0, 33.0], [44.0], [55.0]]
    assert session.sizes == [1, 2, 2]


def test_a_cancelled_request_is_no_part_of_a_batch(rig: Callable[..., Any]) -> None:
    """It is neither run nor answered, and its neighbours get their own rows."""
    session = Batched(rig())
    scheduler = batching(session)
    futures = [scheduler.submit(Request(rows(value))) for value in (1.0, 2.0, 3.0)]
    assert futures[1].cancel()
    scheduler.serve_next()
    assert session.sizes == [2]
    np.testing.assert_array_equal(futures[2].result(0).outputs["y"], rows(3.0)["x"] * 10)


def test_one_bad_request_does_not_fail_its_batch(rig: Callable[..., Any]) -> None:
    """The run of three fails, each alone then does what it can."""
    session = Batched(rig())
    scheduler = batching(session)
    futures = [scheduler.submit(Request(rows(value))) for value in (1.0, float("nan"), 3.0)]
    scheduler.serve_next()
    assert session.sizes == [3, 1, 1, 1]
    assert isinstance(futures[1].exception(0), RuntimeError)
    np.testing.assert_array_equal(futures[2].result(0).outputs["y"], rows(3.0)["x"] * 10)
    stats = scheduler.stats()
    assert (sum(stats.served), stats.failed) == (2, 1)


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
    assert scheduler.stats().lowered == 1


def test_hopeless_request_is_shed_at_once_with_a_hint(rig: Callable[..., Any]) -> None:
    """100.1 ms leave 90 for runs, 45 of 2 ms at the lowest level: the 46th is told to come back after them."""
    r = rig(default_slo_ms=100.1)
    futures = [r.scheduler.submit(Request(X)) for _ in range(50)]
    assert [future.done() for future in futures] == [False] * 45 + [True] * 5
    shed = futures[-1].exception(0)
    assert isinstance(shed, OverloadedError)
    assert shed.retry_after_ms == pytest.approx(90.0)
    assert r.scheduler.stats().shed == 5


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"inputs": {}}, InputError),
        ({"inputs": {"x": np.ones((1, 4), np.float32)}}, InputError),
        ({"level": 4}, LevelError),
        ({"min_accuracy": 0.99}, InputError),
        ({"slo_ms": -1.0}, InputError),
    ],
)
def test_bad_requests_fail_through_the_future(rig: Callable[..., Any], fields: dict[str, Any], kind: type) -> None:
    """submit() does not raise, and nothing is queued."""
    r = rig()
    assert isinstance(r.scheduler.submit(Request(**{"inputs": X, **fields})).exception(0), kind)
    stats = r.scheduler.stats()
    assert (stats.failed, stats.queue_length) == (1, 0)


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


def test_default_slo_caps_what_the_client_asks(rig: Callable[..., Any]) -> None:
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
        r.clock.advance(0.003)
    assert r.policy.choose(Waiting(r.clock() + 9.0, 0, 0), [], r.clock()).predicted_ms == pytest.approx(5.0, rel=0.02)
    r.clock.advance(5.0)
    r.scheduler.submit(Request(X, level=0))
    r.scheduler.serve_next()
    assert r.policy.choose(Waiting(r.clock() + 9.0, 0, 0), [], r.clock()).predicted_ms == pytest.approx(5.0, rel=0.02)


def test_a_failing_session_costs_only_its_request(rig: Callable[..., Any]) -> None:
    """The client gets the very error, the next request is served, nothing is learned from the failure."""
    r = rig()
    r.session.fault = MemoryError("no room")
    failed = r.scheduler.submit(Request(X))
    r.scheduler.serve_next()
    assert failed.exception(0) is r.session.fault
    r.session.fault = None
    served = r.scheduler.submit(Request(X))
    r.scheduler.serve_next()
    assert served.result(0).level.index == 3
    stats = r.scheduler.stats()
    assert (stats.failed, sum(stats.served), stats.slowdown) == (1, 1, pytest.approx(1.0))


class BrokenPolicy(FixedPolicy):
    """Raises where it is told to."""

    broken = ""

    def admit(self, request: Waiting, queue: Sequence[Waiting], busy_ms: float, now_s: float) -> Decision:
        self._raise("admit")
        return super().admit(request, queue, busy_ms, now_s)

    def choose(self, request: Waiting, queue: Sequence[Waiting], now_s: float) -> Decision:
        self._raise("choose")
        return super().choose(request, queue, now_s)

    def observe(self, level: int, batch: int, service_ms: float, now_s: float) -> None:
        self._raise("observe")
        super().observe(level, batch, service_ms, now_s)

    def _raise(self, where: str) -> None:
        if self.broken == where:
            raise ZeroDivisionError(where)


@pytest.mark.parametrize("where", ["admit", "choose", "observe"])
def test_a_failing_policy_costs_at_most_its_request(rig: Callable[..., Any], where: str) -> None:
    """The scheduler outlives a policy that raises; a result that is there is delivered."""
    r = rig(lambda profile: BrokenPolicy(1, profile))
    r.policy.broken = where
    future = r.scheduler.submit(Request(X))
    r.scheduler.serve_next()
    assert where == "observe" or isinstance(future.exception(0), ZeroDivisionError)
    assert where != "observe" or future.result(0).level.index == 1
    r.policy.broken = ""
    again = r.scheduler.submit(Request(X))
    r.scheduler.serve_next()
    assert again.result(0).level.index == 1


def test_profile_of_another_model_is_refused(rig: Callable[..., Any]) -> None:
    """A profile with fewer levels than the checkpoint has."""
    r = rig()
    profile = LatencyProfile((1,), [[1.0]])
    with pytest.raises(InputError, match="the profile has 1 levels, the checkpoint 4"):
        Scheduler(r.session, profile, ElasticPolicy(profile), default_slo_ms=10.0, workers=0)
    with pytest.raises(InputError, match="default_slo_ms"):
        Scheduler(r.session, profile, ElasticPolicy(profile), default_slo_ms=0.0, workers=0)


def test_close_without_threads_drains_then_fails_the_rest(rig: Callable[..., Any]) -> None:
    """2 requests of 14 ms fit in 20 ms of grace (the second begins in time), the others are told to go elsewhere."""
    r = rig(lambda profile: FixedPolicy(3, profile))
    futures = [r.scheduler.submit(Request(X)) for _ in range(4)]
    r.scheduler.close(grace_s=0.02)
    assert [future.result(0).level.index for future in futures[:2]] == [3, 3]
    assert all(isinstance(future.exception(0), UnavailableError) for future in futures[2:])
    assert isinstance(r.scheduler.submit(Request(X)).exception(0), UnavailableError)
    r.scheduler.close()


def test_worker_thread_serves_and_close_drains(gated: GatedSession) -> None:
    """What waits when close() is called is still served within the grace."""
    scheduler = threaded(gated)
    futures = [scheduler.submit(Request(X)) for _ in range(5)]
    assert gated.entered.acquire(timeout=20)
    closer = threading.Thread(target=scheduler.close, kwargs={"grace_s": 20.0})
    closer.start()
    for _ in range(5):
        gated.gate.release()
    closer.join(20)
    for future in futures:
        np.testing.assert_array_equal(future.result(0).outputs["y"], X["x"] * 2)


def test_close_fails_the_rest_after_the_grace(gated: GatedSession) -> None:
    """The run under way is finished, the others end with UnavailableError; close() returns when all have ended."""
    scheduler = threaded(gated)
    running, waiting = scheduler.submit(Request(X)), scheduler.submit(Request(X))
    assert gated.entered.acquire(timeout=20)
    closer = threading.Thread(target=scheduler.close, kwargs={"grace_s": 0.0})
    closer.start()
    assert isinstance(waiting.exception(20), UnavailableError)
    gated.gate.release()
    closer.join(20)
    assert running.result(0).outputs["y"].shape == (1, 3)
    assert not closer.is_alive()


def test_worker_thread_survives_what_the_session_raises(gated: GatedSession) -> None:
    """Error, then result, from the same thread."""
    scheduler = threaded(gated)
    gated.fault = RuntimeError("once")
    failed = scheduler.submit(Request(X))
    gated.gate.release()
    assert str(failed.exception(20)) == "once"
    gated.fault = None
    served = scheduler.submit(Request(X))
    gated.gate.release()
    assert served.result(20).outputs["y"].shape == (1, 3)
    scheduler.close()


def test_running_request_cannot_be_cancelled(gated: GatedSession) -> None:
    """Once it has begun it is answered; one that waits can be taken back."""
    scheduler = threaded(gated)
    running, waiting = scheduler.submit(Request(X)), scheduler.submit(Request(X))
    assert gated.entered.acquire(timeout=20)
    assert not running.cancel()
    assert waiting.cancel()
    gated.gate.release()
    assert running.result(20).outputs["y"].shape == (1, 3)
    with pytest.raises(CancelledError):
        waiting.result(0)
    scheduler.close()
    assert scheduler.stats().cancelled == 1


def test_two_workers_run_side_by_side(gated: GatedSession) -> None:
    """Both are inside the session at once."""
    scheduler = threaded(gated, workers=2)
    futures = [scheduler.submit(Request(X)) for _ in range(2)]
    assert gated.entered.acquire(timeout=20)
    assert gated.entered.acquire(timeout=20)
    gated.gate.release(2)
    assert all(future.result(20) for future in futures)
    scheduler.close()


def test_many_threads_lose_nothing(gated: GatedSession) -> None:
    """200 requests from 8 threads, some cancelled: each ends once, and the counts add up."""
    scheduler = threaded(gated, workers=2, max_queue=500)
    gated.gate.release(1000)
    futures: list[Future[Response]] = []

    def client(number: int) -> None:
        for i in range(25):
            future = scheduler.submit(Request(X))
            if (i + number) % 5 == 0:
                future.cancel()
            futures.append(future)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    scheduler.close(grace_s=20.0)
    assert len(futures) == 200
    assert all(future.done() for future in futures)
    stats = scheduler.stats()
    assert stats.cancelled == sum(future.cancelled() for future in futures)
    assert sum(stats.served) == 200 - stats.cancelled
    assert (stats.shed, stats.expired, stats.failed, stats.queue_length) == (0, 0, 0, 0)


def test_level_changes_are_logged_with_their_cause(rig: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """With the reason and what the sensors say, and what lies between two lines in a few words."""
    stalled = {"cpu_stall_us": 0.0}
    monitor_clock = iter(float(i) for i in range(1000))

    def stall() -> dict[str, float]:
        stalled["cpu_stall_us"] += 400_000.0
        return dict(stalled)

    monitor = ResourceMonitor([stall], lambda: next(monitor_clock), min_interval_s=0.0)
    for _ in range(2):  # as a governor does; shares need two
        monitor.sample()
    r = rig(monitor=monitor)
    with caplog.at_level(logging.INFO, "nested_sparse.runtime"):
        r.play([(0.05 * i, {"slo_ms": (100.0, 12.0)[i % 2]}) for i in range(141)])
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("virtual: level 3 -> 2: ")
    assert lines[0].endswith("slowdown 1.00, 0 waiting; cpu stall 40 %")
    assert lines[1].endswith(" changes in 5 s; levels 2: 50 %, 3: 50 %)")


def test_a_level_that_clients_chose_is_no_change_of_the_server_s(
    rig: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """By its number, or by an accuracy that only the densest has: not logged, nor reckoned with by other models."""
    r = rig()
    with caplog.at_level(logging.INFO, "nested_sparse.runtime"):
        r.play([(0.1 * i, ({"level": i % 4}, {})[i % 2]) for i in range(20)])
        r.play([(0.1 * i, {"slo_ms": 12.0}) for i in range(8)])  # time for level 2 at most
        caplog.clear()
        r.play([(0.1 * i, ({"min_accuracy": 0.97}, {"slo_ms": 12.0})[i % 2]) for i in range(20)])
        r.play([(0.0, {"level": 0})])
    assert not caplog.records
    assert r.scheduler._present_level == 2


def test_a_run_that_does_not_end_is_answered_and_its_slot_is_free(
    gated: GatedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client hears StuckError, the device goes on, and the result that comes in the end is nobody's."""
    monkeypatch.setattr("nested_sparse.runtime.scheduling.running_jobs.stuck_after_s", lambda predicted_ms: 0.05)
    scheduler = threaded(gated)
    future = scheduler.submit(Request(X))
    assert gated.entered.acquire(timeout=20)
    assert isinstance(future.exception(timeout=20), StuckError)
    assert scheduler.stats().stuck == 1
    assert scheduler._device.busy_ms(0.0) == 0.0
    scheduler.close(grace_s=0.0)  # does not wait for it
    gated.gate.release()
    for thread in scheduler._threads:
        thread.join(timeout=20)
        assert not thread.is_alive()
    stats = scheduler.stats()
    assert (stats.stuck, stats.failed, sum(stats.served)) == (0, 1, 0)
