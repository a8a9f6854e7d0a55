"""RecentCalls: the clients that make far fewer calls than others, by a clock that the test turns."""

from __future__ import annotations

from nested_sparse.serving.connections.front_delay import FrontDelay
from nested_sparse.serving.connections.recent_calls import RecentCalls


def played(per_s: dict[str, int], seconds: int = 10) -> dict[str, float]:
    """Share of each client's calls of the last second that found it modest; windows of a second."""
    recent = RecentCalls(1.0)
    calls = sorted((number / rate, name) for name, rate in per_s.items() for number in range(rate * seconds))
    found = dict.fromkeys(per_s, 0)
    for now_s, name in calls:
        modest = recent.note(name, now_s)
        found[name] += modest and now_s >= seconds - 1
    return {name: found[name] / per_s[name] for name in per_s}


def test_a_client_alone_is_not_modest() -> None:
    assert played({"a": 100}) == {"a": 0.0}


def test_equal_clients_are_not_modest() -> None:
    assert played({"a": 100, "b": 100, "c": 100}) == {"a": 0.0, "b": 0.0, "c": 0.0}


def test_clients_that_call_rarely_are_modest_beside_a_greedy_one() -> None:
    assert played({"greedy": 1000, "a": 30, "b": 5}) == {"greedy": 0.0, "a": 1.0, "b": 1.0}


def test_calls_are_forgotten() -> None:
    recent = RecentCalls(1.0)
    for _ in range(100):
        recent.note("a", 0.0)
    assert recent.note("b", 0.5)
    assert not recent.note("b", 5.0)


def test_a_spared_request_is_not_refused_and_counts_for_the_wait() -> None:
    delay = FrontDelay(100.0)
    delay.stood_still(0.0, 1.0)
    assert delay.enter(1.0, spared=False).refused
    spared = delay.enter(1.0, spared=True)
    assert not spared.refused
    assert spared.wait_s == 1.0
