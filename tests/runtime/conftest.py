"""Rig: the real scheduler and policies on a virtual clock and a virtual session."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from nested_sparse.runtime.policy.base import LevelPolicy
from nested_sparse.runtime.policy.elastic import ElasticPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.resources import QuotaReading
from nested_sparse.runtime.scheduling.request import Request
from nested_sparse.runtime.scheduling.scheduler import Scheduler
from nested_sparse.runtime.simulation import SimulatedOutcome, VirtualClock, VirtualSession, play

LEVEL_MS = (2.0, 5.0, 9.0, 14.0)
ACCURACY = (0.90, 0.92, 0.95, 0.97)
INPUT = np.zeros((1, 3), np.float32)


@dataclass(frozen=True)
class StartContention:
    """A run takes slowdown(its start) times as long."""

    slowdown: Callable[[float], float]
    name: str = "slowdown"
    quota: QuotaReading | None = None
    clock: Callable[[], float] = time.monotonic  # without a quota it is not asked

    def end_s(self, start_s: ArrayLike, work_s: ArrayLike) -> NDArray[np.float64]:
        start = float(np.asarray(start_s))
        return start + np.asarray(work_s, np.float64) * self.slowdown(start)


@dataclass
class Rig:
    """A scheduler without threads on a virtual clock."""

    clock: VirtualClock
    session: VirtualSession
    policy: LevelPolicy
    scheduler: Scheduler

    def play(self, arrivals: Iterable[tuple[float, dict[str, object]]], until_s: float = 0.0) -> list[SimulatedOutcome]:
        """Submits a request at each (seconds from now, fields of Request), serves all; how each ended, by arrival."""
        begin_s = self.clock()
        requests = [(offset_s, Request(**{"inputs": {"x": INPUT}, **fields})) for offset_s, fields in arrivals]  # type: ignore[arg-type]
        outcomes = play(self.scheduler, self.clock, requests, default_slo_ms=100.0)
        self.clock.advance_to(begin_s + until_s)
        return outcomes


def build_rig(
    policy: Callable[[LatencyProfile], LevelPolicy] = ElasticPolicy,
    slowdown: Callable[[float], float] = lambda now_s: 1.0,
    **options: object,
) -> Rig:
    clock = VirtualClock()
    profile = LatencyProfile((1,), [[ms] for ms in LEVEL_MS])
    session = VirtualSession(clock, profile, ACCURACY, StartContention(slowdown))
    built = policy(profile)
    settings = {"default_slo_ms": 100.0, "workers": 0, "clock": clock, **options}
    return Rig(clock, session, built, Scheduler(session, profile, built, **settings))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def rig() -> Callable[..., Rig]:
    """build_rig, as a fixture: test modules cannot import each other."""
    return build_rig
