"""Overload: shares of runs that a refusal followed, against sums over lists of runs."""

from __future__ import annotations

import random

import pytest

from nested_sparse.runtime.policy.arrivals import Arrivals
from nested_sparse.runtime.policy.decision import Waiting
from nested_sparse.runtime.policy.elastic import ElasticPolicy
from nested_sparse.runtime.policy.forecast import Forecast
from nested_sparse.runtime.policy.overload import PARTS, WEIGHT, Overload
from nested_sparse.runtime.profiling.profile import LatencyProfile

PROFILE = LatencyProfile((1,), [[10.0], [14.0], [30.0]])
FILLS = [0.0, 0.1, 0.4, 0.99, 1.0, 7.0]


def test_time_is_free_until_a_request_is_refused() -> None:
    overload = Overload(Forecast(PROFILE), Arrivals())
    for _ in range(100):
        overload.ran(0.0)
        overload.idle()
    overload.refused()  # no run before it
    assert [overload.price(fill) for fill in FILLS] == [0.0] * len(FILLS)


@pytest.mark.parametrize("seed", range(5))
def test_prices_are_those_of_runs_noted_one_by_one(seed: int) -> None:
    """The reference keeps each run, and moves the share of its part by WEIGHT when its outcome is known."""
    draw = random.Random(seed)
    overload = Overload(Forecast(PROFILE), Arrivals())
    runs: list[float] = []
    shares: dict[int, float] = {}
    for _ in range(500):
        event = draw.choices(("run", "idle", "refused"), (6, 2, 1))[0]
        if event == "run":
            runs.append(draw.choice([0.0, draw.uniform(0.0, 1.5)]))
            overload.ran(runs[-1])
            continue
        overload.idle() if event == "idle" else overload.refused()
        for fill in runs:
            part = 0 if fill == 0.0 else min(1 + int(fill * PARTS), PARTS)
            shares[part] = (1 - WEIGHT) * shares.get(part, 0.0) + (WEIGHT if event == "refused" else 0.0)
        runs.clear()
        for fill in FILLS:
            part = 0 if fill == 0.0 else min(1 + int(fill * PARTS), PARTS)
            assert overload.price(fill) == pytest.approx(shares.get(part, 0.0))


def test_runs_after_the_last_refusal_cost_nothing() -> None:
    overload = Overload(Forecast(PROFILE), Arrivals())
    overload.ran(0.0)
    overload.refused()
    price = overload.price(0.0)
    assert price == pytest.approx(WEIGHT)
    overload.ran(0.0)
    overload.idle()
    assert overload.price(0.0) < price


def test_a_queue_fills_the_time_that_requests_have() -> None:
    """Requests of 2 samples, 20 ms each, with 80 ms: two of them take half of it, and all of it at half the speed."""
    arrivals = Arrivals()
    for second in range(10):
        arrivals.note(2, 80.0, float(second))
    profile = LatencyProfile((1, 2), [[10.0, 20.0], [30.0, 60.0]])
    overload = Overload(Forecast(profile), arrivals)
    assert overload.fill(0, 1.0, 1.0) == 0.0
    assert overload.fill(2, 1.0, 1.0) == pytest.approx(0.5)
    assert overload.fill(2, 2.0, 1.0) == pytest.approx(1.0)
    assert overload.fill(2, 1.0, 0.5) == pytest.approx(1.0)
    assert Overload(Forecast(profile, workers=2), arrivals).fill(2, 1.0, 1.0) == pytest.approx(0.25)
    assert Overload(Forecast(profile), Arrivals()).fill(2, 1.0, 1.0) == 0.0


def due(slack_ms: float, now_s: float) -> Waiting:
    return Waiting(now_s + slack_ms / 1e3, 0, 2, budget_ms=slack_ms)


def serve_bursts(policy: ElasticPolicy, requests: int, bursts: int = 40) -> list[int | None]:
    """Levels of the first request of each burst: `requests` at once, served one after the other; between bursts, four
    requests that come alone.

    The device is idle when a burst begins, and only the first request runs before the others have come in.
    """
    levels: list[int | None] = []
    for second in range(5 * bursts):
        now_s = 1.0 + second
        first = due(50.0, now_s)
        policy.admit(first, [], 0.0, now_s)
        decision = policy.choose(first, [], now_s)
        if second % 5:
            continue
        levels.append(decision.level)
        queue: list[Waiting] = []
        for _ in range(requests - 1):
            request = due(50.0, now_s + 1e-3)
            if policy.admit(request, queue, decision.predicted_ms - 1.0, now_s + 1e-3).level is not None:
                queue.append(request)
        while queue:
            now_s += decision.predicted_ms / 1e3
            policy.observe(decision.level or 0, 1, decision.predicted_ms, now_s)
            decision = policy.choose(queue.pop(0), queue, now_s)
    return levels


def test_a_run_before_bursts_that_overload_the_device_takes_the_lowest_level() -> None:
    """Of ten at once, five can be served in time at 10 ms each: each burst has refusals behind its first run.

    A run of 14 ms costs 0.4 requests more than one of 10; level 1 is worth 0.02 more.
    """
    policy = ElasticPolicy(PROFILE, accuracy=[0.90, 0.92, 0.93])
    assert serve_bursts(policy, 10)[-1] == 0


def test_bursts_that_can_be_served_leave_time_free() -> None:
    """Two at once: nothing is refused, and the first run is as dense as an idle device allows."""
    policy = ElasticPolicy(PROFILE, accuracy=[0.90, 0.92, 0.93])
    assert serve_bursts(policy, 2)[-1] == 2


def test_a_level_that_is_worth_its_time_is_kept_in_overload() -> None:
    """A run of 14 ms costs 0.4 requests of accuracy 0.30 at most, which is 0.12; level 1 is worth 0.60 more.

    A run of 30 ms costs up to 0.60, and level 2 is worth 0.03 more than level 1.
    """
    policy = ElasticPolicy(PROFILE, accuracy=[0.30, 0.90, 0.93])
    assert serve_bursts(policy, 10)[-1] == 1


def test_requests_that_no_device_could_serve_are_no_overload() -> None:
    policy = ElasticPolicy(PROFILE, accuracy=[0.90, 0.92, 0.93])
    for step in range(60):
        now_s = 1.0 + step
        policy.admit(due(50.0, now_s), [], 0.0, now_s)
        usual = policy.choose(due(50.0, now_s), [], now_s)
        assert policy.admit(due(3.0, now_s), [], usual.predicted_ms, now_s).level is None
    assert usual.level == 2


def test_a_request_that_is_only_noted_has_found_the_device_idle() -> None:
    """A refusal behind it is none behind the runs before it, so that their time was free."""
    policy = ElasticPolicy(PROFILE, accuracy=[0.90, 0.92, 0.93])
    for step in range(60):
        now_s = 1.0 + step
        policy.arrived(due(50.0, now_s), now_s)
        usual = policy.choose(due(50.0, now_s), [], now_s)
        policy.arrived(due(50.0, now_s + 0.5), now_s + 0.5)
        assert policy.admit(due(50.0, now_s + 0.5), [], 45.0, now_s + 0.5).level is None
    assert usual.level == 2


def test_the_level_is_back_when_the_overload_has_gone() -> None:
    policy = ElasticPolicy(PROFILE, accuracy=[0.90, 0.92, 0.93])
    serve_bursts(policy, 10)
    levels = []
    for step in range(200):
        now_s = 100.0 + step
        policy.admit(due(50.0, now_s), [], 0.0, now_s)
        levels.append(policy.choose(due(50.0, now_s), [], now_s).level)
    assert levels[0] == 0
    assert levels[-1] == 2
