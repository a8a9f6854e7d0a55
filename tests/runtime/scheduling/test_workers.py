"""Workers: the threads of a scheduler serve, end in order, and answer for a run that does not end."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from typing import Any

import numpy as np
import pytest
from fake_sessions import GatedSession

from nested_sparse.errors import InputError, OverloadedError, StuckError, UnavailableError
from nested_sparse.runtime.policy.elastic import ElasticPolicy
from nested_sparse.runtime.policy.fixed import FixedPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.scheduling.request import Request, Response
from nested_sparse.runtime.scheduling.scheduler import Scheduler

X = {"x": np.ones((1, 3), np.float32)}


@pytest.fixture
def gated(rig: Callable[..., Any]) -> GatedSession:
    return GatedSession(rig().session)


def threaded(session: GatedSession, **options: Any) -> Scheduler:
    profile = LatencyProfile((1,), [[0.01]] * len(session.levels))
    settings = {"default_slo_ms": 60_000.0, **options}
    return Scheduler(session, profile, ElasticPolicy(profile), **settings)


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
    """Requests that wait when close() is called are still served within the grace."""
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


@pytest.mark.parametrize("end", ["answered", "cancelled", "refused", "failed"])
def test_an_ended_request_is_gone_without_a_garbage_collection(gated: GatedSession, end: str) -> None:
    """Its inputs may be large, and a client that sends many must not fill the memory until Python collects."""
    scheduler = threaded(gated, max_queue=1)
    gc.disable()
    try:
        running = scheduler.submit(Request(X))
        assert gated.entered.acquire(timeout=20)
        inputs = np.ones((1, 3), np.float32)
        if end == "refused":
            scheduler.submit(Request(X))
        future = scheduler.submit(Request({"x": inputs}))
        if end == "cancelled":
            assert future.cancel()
        if end == "failed":
            gated.fault = InputError("once")
            gated.fault.__cause__ = ValueError("of the run")
        gated.gate.release(2)
        assert not wait([running, future], 20).not_done
        errors = {"refused": OverloadedError, "failed": InputError}
        assert type(future._exception) is errors.get(end, type(None))
        scheduler.close()
        known = weakref.ref(inputs)
        del inputs, future
        assert known() is None
    finally:
        gc.enable()


def test_an_answer_that_is_kept_keeps_no_scheduler(gated: GatedSession) -> None:
    """Of a request that waited in the queue: a program may hold answers for longer than the model that gave them."""
    scheduler = threaded(gated)
    gc.disable()
    try:
        answers = [scheduler.submit(Request(X)) for _ in range(3)]
        gated.gate.release(3)
        assert not wait(answers, 20).not_done
        scheduler.close()
        known = weakref.ref(scheduler)
        del scheduler
        assert known() is None
    finally:
        gc.enable()


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


def test_a_worker_thread_survives_an_error_of_the_session(gated: GatedSession) -> None:
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
    """200 requests from 8 threads, some cancelled: each is answered or cancelled."""
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
    assert all(future.cancelled() or future.exception(0) is None for future in futures)
    assert scheduler.stats().queue_length == 0


def test_a_run_that_does_not_end_is_answered_and_its_slot_is_free(
    gated: GatedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client gets StuckError, the device continues, and the late result is dropped."""
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
    assert scheduler.stats().stuck == 0
