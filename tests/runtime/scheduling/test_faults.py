"""Faults: the effects of a failing session or policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from nested_sparse.runtime.policy.decision import Decision, Waiting
from nested_sparse.runtime.policy.fixed import FixedPolicy
from nested_sparse.runtime.scheduling.request import Request

X = {"x": np.ones((1, 3), np.float32)}


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
    assert r.scheduler.stats().slowdown == pytest.approx(1.0)


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
