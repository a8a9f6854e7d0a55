"""Governor: the thread that keeps models within what the machine has left."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from nested_sparse.forked import heed_forks
from nested_sparse.level import Level

from .limits import LevelLimit, LevelLimiter, LimitConfig
from .monitor import ResourceMonitor, ResourceSample

FEWER_CORES_S = 1.0
MORE_CORES_S = 10.0
"""How long the cores must have changed before the threads follow: down soon, for more threads than cores are throttled
for part of every period; up late, for building anew what runs the graph costs a core for a moment."""
_LOGGER = logging.getLogger("nested_sparse.runtime")


class Model(Protocol):
    """A session."""

    name: str
    resident_level: int
    threads: int

    @property
    def levels(self) -> Sequence[Level]: ...  # noqa: D102 -- as a Session's


class Limited(Protocol):
    """A scheduler."""

    def limit(self, highest_level: int, reason: str) -> None:
        """From now on no request is to run denser."""


@dataclass(slots=True)
class _Watched:
    model: Model
    scheduler: Limited
    limits: LevelLimiter
    limit: LevelLimit
    follows_cores: bool
    priority: int = 0
    differs_since_s: float | None = None


class Governor:
    """Samples `monitor` every `period_s` and applies what comes of it to the watched models; close() ends it.

    The only thread that reads the probes: one that hangs stops the limits from changing, and nothing else.
    """

    def __init__(
        self,
        monitor: ResourceMonitor,
        config: LimitConfig | None = None,
        *,
        period_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.monitor = monitor
        self._config = LimitConfig() if config is None else config
        self._period_s = period_s
        self._clock = clock
        self._lock = threading.Lock()
        self._watched: list[_Watched] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="governor", daemon=True)
        heed_forks(self)

    def forget(self) -> None:
        """As Inheritable: the thread is the parent's."""
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def watch(self, model: Model, scheduler: Limited, *, follows_cores: bool, priority: int = 0) -> None:
        """Limit `model` from the next look on. follows_cores: its threads become as many as the usable cores.

        priority: short memory is taken from the models of the lowest first; those above give at the next look, if that
        was not enough.
        """
        top = len(model.levels) - 1
        limits = LevelLimiter(model.levels, self._config)
        with self._lock:
            self._watched.append(_Watched(model, scheduler, limits, LevelLimit(top, top, ""), follows_cores, priority))
            self._watched.sort(key=lambda each: each.priority)

    def start(self) -> None:
        """Begin to look, in a thread of its own."""
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Look no more. Waits for the look under way, but not longer: a probe may hang. May be called again."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def __enter__(self) -> Governor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def look(self) -> None:
        """One look at the sensors, applied to every model. What goes wrong with one model is logged."""
        sample, now_s = self.monitor.sample(), self._clock()
        with self._lock:
            watched = list(self._watched)
        given_by = None  # priority of those that have just given memory
        for each in watched:
            if self._closed.is_set():
                return
            spared = given_by is not None and each.priority > given_by
            resident_level = each.limit.resident_level
            try:
                _limit(each, each.limits.update(_without_memory(sample) if spared else sample, now_s))
                _follow_cores(each, sample, now_s)
            except Exception:
                _LOGGER.exception("%s: its limits could not be applied", each.model.name)
            if each.limit.resident_level < resident_level:
                given_by = each.priority

    def _work(self) -> None:
        while not self._closed.wait(self._period_s):
            self.look()


def _limit(watched: _Watched, limit: LevelLimit) -> None:
    model, before = watched.model, watched.limit
    if limit.highest_level != before.highest_level:
        _LOGGER.info(
            "%s: %s: highest level %d -> %d", model.name, limit.reason, before.highest_level, limit.highest_level
        )
    if limit != before:
        # before its pages go: a run that begins between the two would fetch them again
        watched.scheduler.limit(limit.highest_level, limit.reason)
        watched.limit = limit
    # also when nothing changed: runs under way, and requests that ask for a level, may have brought pages back
    if model.resident_level > limit.resident_level:
        model.resident_level = limit.resident_level


def _follow_cores(watched: _Watched, sample: ResourceSample, now_s: float) -> None:
    cores, model = sample.usable_cores, watched.model
    if not watched.follows_cores or cores is None or cores == model.threads:
        watched.differs_since_s = None
        return
    if watched.differs_since_s is None:
        watched.differs_since_s = now_s
    if now_s - watched.differs_since_s >= (FEWER_CORES_S if cores < model.threads else MORE_CORES_S):
        watched.differs_since_s = None  # and should it fail, not again at once
        before, model.threads = model.threads, cores
        _LOGGER.info("%s: cores: %d usable: threads %d -> %d", model.name, cores, before, cores)


def _without_memory(sample: ResourceSample) -> ResourceSample:
    return replace(sample, available_memory_bytes=None, memory_stall_percent=None)
