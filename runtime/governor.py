"""Governor: has the models of this process obey what the machine allows."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from nested_sparse.runtime.limits import LevelLimit, LimitConfig, Limits
from nested_sparse.runtime.monitor import ResourceMonitor, ResourceSample
from nested_sparse.runtime.session import Session

PERIOD_S = 0.5
CORES_FOR_S = 3.0
"""For how long the usable cores must have been others before the threads follow."""
_LOGGER = logging.getLogger("nested_sparse.runtime")


class Limited(Protocol):
    """What takes a limit: a Scheduler."""

    def limit(self, highest_level: int, reason: str) -> None:
        """No request that leaves a choice runs denser."""


@dataclass(slots=True)
class _Model:
    session: Session
    scheduler: Limited
    limits: Limits
    priority: int
    follows_cores: bool
    limit: LevelLimit
    cores: int
    cores_since_s: float


class Governor:
    """Looks at the sensors twice a second, in a thread of its own: a probe that hangs holds up nobody's requests.

    Short memory is taken from the models of the lowest priority first: while one of them still holds more than its
    lowest level, those above keep theirs. Call step() instead of start() to drive it by hand.
    """

    def __init__(
        self,
        monitor: ResourceMonitor,
        config: LimitConfig | None = None,
        *,
        period_s: float = PERIOD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monitor = monitor
        self._config = LimitConfig() if config is None else config
        self._period_s = period_s
        self._clock = clock
        self._models: list[_Model] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, session: Session, scheduler: Limited, *, priority: int = 0, follows_cores: bool = False) -> None:
        """One more model. follows_cores: its threads follow the cores that may be used, by quota or affinity."""
        top = len(session.levels) - 1
        limits = Limits(session.levels, self._config)
        cores = session.threads
        model = _Model(session, scheduler, limits, priority, follows_cores, LevelLimit(top, top), cores, self._clock())
        self._models.append(model)
        self._models.sort(key=lambda each: each.priority)

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._work, name="governor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; does not wait for a probe that hangs."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * self._period_s)

    def step(self) -> None:
        """One look at the sensors, and what follows from it."""
        sample = self._monitor.sample()
        now_s = self._clock()
        memory_taken = False
        for model in self._models:
            seen = _without_memory(sample) if memory_taken else sample
            before = model.limit
            self._apply(model, model.limits.update(seen, now_s))
            memory_taken |= model.limit.resident_level < before.resident_level
            if model.follows_cores:
                self._follow_cores(model, sample.usable_cores, now_s)

    def _apply(self, model: _Model, limit: LevelLimit) -> None:
        before, model.limit = model.limit, limit
        name = model.session.name
        if limit.highest_level != before.highest_level:
            model.scheduler.limit(limit.highest_level, limit.reason)
            because = limit.reason or "nothing limits it any more"
            _LOGGER.info("%s: highest level %d -> %d: %s", name, before.highest_level, limit.highest_level, because)
        if limit.resident_level < before.resident_level:
            freed = model.session.shrink(limit.resident_level)
            _LOGGER.info("%s: gave %.1f MiB back to the system: %s", name, freed / 2**20, limit.reason)

    def _follow_cores(self, model: _Model, cores: int | None, now_s: float) -> None:
        if cores is None or cores != model.cores:
            model.cores, model.cores_since_s = cores or model.cores, now_s
        if model.cores == model.session.threads or now_s - model.cores_since_s < CORES_FOR_S:
            return
        before = model.session.threads
        try:
            model.session.threads = model.cores
        except Exception:  # the old threads go on
            _LOGGER.exception("%s: could not change its threads to %d", model.session.name, model.cores)
            model.follows_cores = False
            return
        _LOGGER.info("%s: threads %d -> %d: the usable cores changed", model.session.name, before, model.cores)

    def _work(self) -> None:
        while not self._stop.wait(self._period_s):
            try:
                self.step()
            except Exception:  # serving goes on without limits rather than not at all
                _LOGGER.exception("the governor failed to apply what the sensors say")


def _without_memory(sample: ResourceSample) -> ResourceSample:
    """The sample for a model that keeps its memory for now: one of lower priority has just given some."""
    return replace(sample, available_memory_bytes=None, memory_stall_percent=None)
