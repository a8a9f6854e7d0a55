"""Modest clients: those with far fewer calls than others are not refused in front, by a clock that the test turns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nested_sparse.serving.connections.front import INFER, Front
from nested_sparse.serving.connections.front_delay import FrontDelay
from nested_sparse.serving.rights.caller import caller
from nested_sparse.serving.rights.tokens import Client

TAKEN = object()
DETAILS = SimpleNamespace(method=INFER, invocation_metadata=())


def taken(per_s: dict[str, int], monkeypatch: pytest.MonkeyPatch, seconds: int = 10) -> dict[str, float]:
    """Share of each client's calls of the last second that reached the handler of a server that is overloaded.

    The name "" stands for clients without tokens.
    """
    now_s = 0.0
    front = Front(SimpleNamespace(service=lambda _: TAKEN), 200.0, lambda: None, clock=lambda: now_s)
    monkeypatch.setattr(front, "_tick_at", lambda _: None)
    monkeypatch.setattr(front, "_probe_if_due", lambda _: None)
    front.open("127.0.0.1:1")
    front.delay.stood_still(-100.0, 0.0)
    calls = sorted((number / rate, name) for name, rate in per_s.items() for number in range(rate * seconds))
    reached = dict.fromkeys(per_s, 0)
    for now_s, name in calls:
        before = caller.set(Client(name, frozenset()) if name else None)
        reached[name] += front.service(DETAILS) is TAKEN and now_s >= seconds - 1
        caller.reset(before)
    return {name: reached[name] / per_s[name] for name in per_s}


@pytest.mark.parametrize(
    ("per_s", "expected"),
    [
        ({"a": 100}, {"a": 0.0}),
        ({"": 100}, {"": 0.0}),
        ({"a": 100, "b": 100, "c": 100}, {"a": 0.0, "b": 0.0, "c": 0.0}),
        ({"greedy": 1000, "a": 30, "b": 5}, {"greedy": 0.0, "a": 1.0, "b": 1.0}),
    ],
    ids=["one alone", "one without a token", "equals", "two beside a greedy one"],
)
def test_only_clients_that_call_far_less_than_others_are_spared(
    per_s: dict[str, int], expected: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert taken(per_s, monkeypatch) == expected


def test_a_spared_request_counts_for_the_wait() -> None:
    delay = FrontDelay(100.0)
    delay.stood_still(0.0, 1.0)
    assert delay.enter(1.0, spared=False).refused
    spared: Any = delay.enter(1.0, spared=True)
    assert not spared.refused
    assert spared.wait_s == 1.0
