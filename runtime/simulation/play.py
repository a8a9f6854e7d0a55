"""Playing a trace to the real scheduler, in virtual time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..policy import LevelPolicy
from ..profiling import LatencyProfile
from ..scheduling import Request, Scheduler
from .outcome import SimulatedOutcome, Summary, summarise
from .traces import Trace
from .virtual_clock import VirtualClock
from .virtual_session import VirtualSession
from .world import World


@dataclass(frozen=True)
class Simulation:
    """Outcomes by arrival, their summary, and the session, which remembers its runs."""

    outcomes: list[SimulatedOutcome]
    summary: Summary
    session: VirtualSession


def simulate(policy: Callable[[LatencyProfile], LevelPolicy], trace: Trace, world: World, **options: Any) -> Simulation:
    """Serves `trace` by the real Scheduler under `policy(profile)`, in `world`.

    `options` go to the Scheduler. The clock begins at 0, with the trace. Deterministic: the same again is the same.
    """
    clock = VirtualClock(0.0)
    noise = world.noise(len(trace.times_s))
    session = VirtualSession(clock, world.profile, world.accuracy, world.contention, noise.tolist())
    settings: dict[str, Any] = {"default_slo_ms": world.slo_ms, "workers": 0, "clock": clock, **options}
    scheduler = Scheduler(session, world.profile, policy(world.profile), **settings)
    requests = ((float(time_s), Request(session.numbered(i))) for i, time_s in enumerate(trace.times_s))
    with _unlogged():
        outcomes = play(scheduler, clock, requests, world.slo_ms)
    for run in session.runs:
        for number in run.requests:
            outcomes[number].score = run.score
    return Simulation(outcomes, summarise(outcomes, world.profile.level_count), session)


def play(
    scheduler: Scheduler, clock: VirtualClock, requests: Iterable[tuple[float, Request]], default_slo_ms: float
) -> list[SimulatedOutcome]:
    """Submits each request so many seconds from now and serves until nothing is left; outcomes by arrival.

    `scheduler` has 0 workers and reads `clock`. default_slo_ms: that of requests that state none.
    """
    outcomes: list[SimulatedOutcome] = []

    def submit(request: Request) -> None:
        future = scheduler.submit(request)
        outcome = SimulatedOutcome(clock(), default_slo_ms if request.slo_ms is None else request.slo_ms, future)
        future.add_done_callback(lambda _: setattr(outcome, "ended_s", clock()))
        outcomes.append(outcome)

    begin_s = clock()
    for offset_s, request in requests:
        clock.at(begin_s + offset_s, partial(submit, request))
    while scheduler.serve_next() or clock.advance_to_next_event():
        pass
    return outcomes


@contextmanager
def _unlogged() -> Iterator[None]:
    """A simulated minute changes its level hundreds of times; nobody wants to read that among a real server's lines."""
    logger = logging.getLogger("nested_sparse.runtime")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
