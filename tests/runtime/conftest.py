"""Virtual time: the real scheduler and policies on a fake clock and a fake session."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import pytest

from nested_sparse.errors import DeadlineError, OverloadedError
from nested_sparse.level import Level
from nested_sparse.runtime.policy import ElasticPolicy, LevelPolicy
from nested_sparse.runtime.profile import LatencyProfile
from nested_sparse.runtime.request import Request, Response
from nested_sparse.runtime.scheduler import Scheduler
from nested_sparse.tensor_spec import TensorSpec

LEVEL_MS = (2.0, 5.0, 9.0, 14.0)
INPUT = np.zeros((1, 3), np.float32)


class VirtualClock:
    """Seconds that pass only by advance(), which calls what is due on the way, at its own time."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

    def __call__(self) -> float:
        return self.now_s

    def at(self, time_s: float, event: Callable[[], object]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), event))

    def advance(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self._events and self._events[0][0] <= end_s:
            time_s, _, event = heapq.heappop(self._events)
            self.now_s = max(self.now_s, time_s)
            event()
        self.now_s = end_s

    def advance_to_next_event(self) -> bool:
        if not self._events:
            return False
        self.advance(max(0.0, self._events[0][0] - self.now_s))
        return True


@dataclass
class FakeSession:
    """Takes LEVEL_MS × slowdown(now) of virtual time; remembers what it ran and when."""

    clock: VirtualClock
    level_ms: Sequence[float] = LEVEL_MS
    slowdown: Callable[[float], float] = lambda now_s: 1.0
    accuracy: Sequence[float | None] = (0.90, 0.92, 0.95, 0.97)
    fault: Exception | None = None
    runs: list[tuple[float, int]] = field(default_factory=list)
    name: str = "fake"

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("x", "float32", (None, 3), (1, 3)),)

    @property
    def levels(self) -> tuple[Level, ...]:
        return tuple(
            Level(index, (index + 1) / len(self.level_ms), 1, 1, {} if accuracy is None else {"accuracy": accuracy})
            for index, (_, accuracy) in enumerate(zip(self.level_ms, self.accuracy, strict=False))
        )

    def run(self, inputs: dict[str, np.ndarray], level: int) -> dict[str, np.ndarray]:
        started_s = self.clock()
        self.runs.append((started_s, level))
        batch = len(inputs["x"])
        self.clock.advance(self.level_ms[level] * batch * self.slowdown(started_s) / 1e3)
        if self.fault is not None:
            raise self.fault
        return {"y": inputs["x"] + level}


@dataclass
class Outcome:
    """How one request of a simulation ended."""

    arrived_s: float
    slo_ms: float
    future: Future[Response]
    ended_s: float = float("nan")

    @property
    def level(self) -> int | None:
        return self.future.result().level.index if self.future.exception() is None else None

    @property
    def in_time(self) -> bool:
        return self.level is not None and self.ended_s <= self.arrived_s + self.slo_ms / 1e3

    @property
    def shed(self) -> bool:
        return isinstance(self.future.exception(), OverloadedError)

    @property
    def expired(self) -> bool:
        return isinstance(self.future.exception(), DeadlineError)


@dataclass
class Rig:
    """A scheduler without threads on a virtual clock."""

    clock: VirtualClock
    session: FakeSession
    policy: LevelPolicy
    scheduler: Scheduler

    def play(self, arrivals: Iterable[tuple[float, dict[str, object]]], until_s: float = 0.0) -> list[Outcome]:
        """Submits a request at each (seconds from now, fields of Request), serves all; how each ended, by arrival."""
        outcomes: list[Outcome] = []
        begin_s = self.clock()
        for offset_s, fields in arrivals:
            self.clock.at(begin_s + offset_s, lambda fields=fields: outcomes.append(self._submit(fields)))
        while self.scheduler.serve_next() or self.clock.advance_to_next_event():
            pass
        self.clock.advance(max(0.0, begin_s + until_s - self.clock()))
        return outcomes

    def _submit(self, fields: dict[str, object]) -> Outcome:
        future = self.scheduler.submit(Request(**{"inputs": {"x": INPUT}, **fields}))  # type: ignore[arg-type]
        outcome = Outcome(self.clock(), float(fields.get("slo_ms", 100.0)), future)  # type: ignore[arg-type]
        future.add_done_callback(lambda _: setattr(outcome, "ended_s", self.clock()))
        return outcome


def build_rig(
    policy: Callable[[LatencyProfile], LevelPolicy] = ElasticPolicy,
    slowdown: Callable[[float], float] = lambda now_s: 1.0,
    **options: object,
) -> Rig:
    clock = VirtualClock()
    session = FakeSession(clock, slowdown=slowdown)
    profile = LatencyProfile((1,), [[ms] for ms in session.level_ms])
    built = policy(profile)
    settings = {"default_slo_ms": 100.0, "workers": 0, "clock": clock, **options}
    return Rig(clock, session, built, Scheduler(session, profile, built, **settings))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def rig() -> Callable[..., Rig]:
    """build_rig, as a fixture: test modules cannot import each other."""
    return build_rig
