"""simulate: plays a trace to the real scheduler, in virtual time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..policy import LevelPolicy
from ..profiling import LatencyProfile
from ..scheduling import Request, Response, Scheduler
from .hand_overs import HandOvers
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

    options: arguments of the Scheduler. The clock begins at 0, with the trace. Equal arguments give equal outcomes.
    """
    clock = VirtualClock(0.0)
    world.contention.clock = clock
    noise = world.noise(len(trace.times_s))
    session = VirtualSession(clock, world.profile, world.accuracy, world.contention, noise.tolist())
    settings: dict[str, Any] = {"default_slo_ms": world.slo_ms, "workers": 0, "clock": clock, **options}
    scheduler = Scheduler(session, world.profile, policy(world.profile), **settings)
    requests = ((float(time_s), Request(session.numbered(i))) for i, time_s in enumerate(trace.times_s))
    with _unlogged():
        outcomes = play(scheduler, clock, requests, world.slo_ms, world.hand_overs(len(trace.times_s)))
    for run in session.runs:
        for number in run.requests:
            outcomes[number].score = run.score
    return Simulation(outcomes, summarise(outcomes, world.profile.level_count), session)


def play(
    scheduler: Scheduler,
    clock: VirtualClock,
    requests: Iterable[tuple[float, Request]],
    default_slo_ms: float,
    waits: HandOvers | None = None,
) -> list[SimulatedOutcome]:
    """Submit each request at its time, seconds from now, and serve until none is left; returns outcomes by arrival.

    `scheduler` has 0 workers and reads `clock`. default_slo_ms: that of requests that state none. waits: of each
    request; None: there are none.
    """
    outcomes: dict[int, SimulatedOutcome] = {}
    latest = 0  # request that was submitted last

    def submit(number: int, arrived_s: float, request: Request) -> None:
        nonlocal latest
        latest = number
        future = scheduler.submit(request)
        slo_ms = default_slo_ms if request.slo_ms is None else request.slo_ms
        outcomes[number] = SimulatedOutcome(arrived_s, slo_ms, future)
        future.add_done_callback(partial(end, number))

    def end(number: int, future: Future[Response]) -> None:
        sent_s = clock() if waits is None else clock() + float(waits.reply_s[number])
        outcomes[number].ended_s = sent_s if waits is None else sent_s + float(waits.client_s[number])
        if not future.cancelled() and future.exception() is None:
            clock.at(sent_s, partial(scheduler.replied, future.result()))

    begin_s = clock()
    for number, (offset_s, request) in enumerate(sorted(requests, key=lambda each: each[0])):
        front_s = 0.0 if waits is None else float(waits.front_s[number])
        clock.at(begin_s + offset_s + front_s, partial(submit, number, begin_s + offset_s, request))
    idle = True
    while True:
        if idle and waits is not None and scheduler.stats().queue_length:
            clock.advance_to(clock() + float(waits.start_s[latest]))  # the worker has to wake up
        idle = not scheduler.serve_next()
        if idle and not clock.advance_to_next_event():
            return [outcomes[number] for number in sorted(outcomes)]


@contextmanager
def _unlogged() -> Iterator[None]:
    """Within, the level log is quiet: a simulated minute changes its level hundreds of times."""
    logger = logging.getLogger("nested_sparse.runtime")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
