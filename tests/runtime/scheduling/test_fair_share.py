"""Fair share: a client that sends too much loses its own requests, and no other client's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.errors import OverloadedError
from nested_sparse.runtime.policy.decision import Waiting
from nested_sparse.runtime.scheduling.fair_share import FairShare
from nested_sparse.runtime.scheduling.job import Job
from nested_sparse.runtime.scheduling.request import Request

X = {"x": np.zeros((1, 3), np.float32)}
PERIOD_S = {"greedy": 0.0005, "modest": 0.02, "other": 0.03}
"""Level 0 takes 2 ms: the greedy client alone asks for four times what the device can do, each other for a tenth."""


def in_time(rig: Callable[..., Any], period_s: Mapping[str, float], **options: Any) -> dict[str, float]:
    """Share of each client's requests of one second that were answered in time."""
    arrivals = sorted(
        (number * period, name) for name, period in period_s.items() for number in range(round(1.0 / period))
    )
    outcomes = rig(**options).play([(offset_s, {"client": name}) for offset_s, name in arrivals])
    sent, answered = Counter(name for _, name in arrivals), Counter[str]()
    for (_, name), outcome in zip(arrivals, outcomes, strict=True):
        answered[name] += outcome.in_time
    return {name: answered[name] / sent[name] for name in sent}


@pytest.mark.parametrize("options", [{}, {"max_queue": 16}], ids=["time is short", "places are short"])
def test_a_greedy_client_takes_nothing_from_the_others(rig: Callable[..., Any], options: dict[str, Any]) -> None:
    shares = in_time(rig, PERIOD_S, **options)
    assert shares["modest"] == shares["other"] == 1.0
    assert shares["greedy"] < 0.3


def test_two_greedy_clients_have_equal_shares(rig: Callable[..., Any]) -> None:
    shares = in_time(rig, {"one": 0.0005, "two": 0.0005, "modest": 0.02})
    assert shares["modest"] == 1.0
    assert shares["one"] == pytest.approx(shares["two"], abs=0.05)


def test_nobody_overtakes_into_another_ones_time(rig: Callable[..., Any]) -> None:
    """Nor by the highest priority, nor by shorter times: what goes first may make late only what has as much."""
    for fields in ({"priority": 1}, {"slo_ms": 30.0}, {"priority": 1, "slo_ms": 30.0}):
        arrivals = [(number * 0.0005, {"client": "greedy", **fields}) for number in range(2000)]
        arrivals += [(number * 0.02, {"client": "modest"}) for number in range(50)]
        arrivals.sort(key=lambda arrival: arrival[0])
        outcomes = rig().play(arrivals)
        modest = [
            each.in_time for (_, asked), each in zip(arrivals, outcomes, strict=True) if asked["client"] == "modest"
        ]
        assert all(modest), fields


def test_a_client_alone_has_the_whole_queue(rig: Callable[..., Any]) -> None:
    """Its requests end as those that name no client."""
    alone, nameless = (in_time(rig, {name: 0.0005}) for name in ("greedy", ""))
    assert alone["greedy"] == nameless[""] > 0.2


def test_a_request_that_made_way_says_so_at_once(rig: Callable[..., Any]) -> None:
    r = rig(max_queue=4)
    greedy = [r.scheduler.submit(Request(X, client="greedy")) for _ in range(4)]
    modest = r.scheduler.submit(Request(X, client="modest"))
    (error,) = [each.exception(0) for each in greedy if each.done()]
    assert isinstance(error, OverloadedError)
    assert "more requests waiting than its share" in str(error)
    assert error.retry_after_ms is not None
    assert greedy[3].done(), "the last that came has to go, not one that waits for long"
    while r.scheduler.serve_next():
        pass
    assert modest.result(0)


def test_equals_do_not_push_each_other_out(rig: Callable[..., Any]) -> None:
    """With as many requests waiting as the newcomer would have, a client keeps them."""
    r = rig(max_queue=2)
    kept = [r.scheduler.submit(Request(X, client=name)) for name in ("a", "b")]
    assert isinstance(r.scheduler.submit(Request(X, client="c")).exception(0), OverloadedError)
    assert not any(each.done() for each in kept)


def test_samples_count_and_not_requests(rig: Callable[..., Any]) -> None:
    r = rig(max_queue=4)
    large = [r.scheduler.submit(Request({"x": np.zeros((3, 3), np.float32)}, client="a")) for _ in range(2)]
    small = [r.scheduler.submit(Request(X, client="b")) for _ in range(2)]
    last = r.scheduler.submit(Request(X, client="c"))
    assert isinstance(large[1].exception(0), OverloadedError)
    assert not any(each.done() for each in (large[0], *small, last))


def job(client: str, deadline_s: float = 1.0, batch: int = 1) -> Job:
    return Job({}, Future(), Waiting(deadline_s, 0, 0, batch), 0.0, 0.0, 100.0, 0.0, False, client)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), max_size=20), st.floats(0, 50), st.integers(1, 5))
def test_nobody_falls_below_the_newcomer(waiting: list[tuple[str, int]], excess_ms: float, batch: int) -> None:
    shares = FairShare(1.0)
    jobs = [job(client, number, size) for number, (client, size) in enumerate(waiting)]
    for each in jobs:
        shares.enter(each)
    newcomer = job("new", 99.0, batch)
    chosen, left_ms = shares.making_way(newcomer, jobs, lambda each: each.batch, excess_ms)
    assert left_ms == pytest.approx(excess_ms - sum(each.waiting.batch for each in chosen))
    assert len(set(map(id, chosen))) == len(chosen)
    for client in "abc":
        kept = sum(each.waiting.batch for each in jobs if each.client == client and each not in chosen)
        assert kept >= batch or not any(each.client == client for each in chosen)
    for each in jobs:
        shares.leave(each)
    assert not shares.others_than("new")
