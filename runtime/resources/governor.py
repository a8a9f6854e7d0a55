"""Governor: the thread that keeps models within the free resources of the machine."""

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
"""Time that the number of cores must have changed before the number of threads follows, in seconds. It falls soon,
because more threads than cores are throttled for part of every period. It rises late, because the graph's session is
then built anew, which keeps a core busy for a moment."""
_LOGGER = logging.getLogger("nested_sparse.runtime")


class Model(Protocol):
    """A model whose weights the governor limits: a Session."""

    name: str
    resident_level: int
    threads: int

    @property
    def levels(self) -> Sequence[Level]: ...  # noqa: D102 -- as a Session's


class Limited(Protocol):
    """A queue whose levels the governor limits: a Scheduler."""

    def limit(self, highest_level: int, reason: str) -> None:
        """Let no request run denser from now on."""


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
    """Samples `monitor` every `period_s` and applies the limits that follow to the watched models, until close().

    No other thread reads the probes. A probe that hangs therefore stops the limits from changing, and nothing else.
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
        """As Inheritable: the thread is that of the parent process."""
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def watch(
        self,
        model: Model,
        scheduler: Limited,
        *,
        follows_cores: bool,
        priority: int = 0,
        config: LimitConfig | None = None,
    ) -> None:
        """Limit `model` from the next look on.

        follows_cores: its number of threads follows the number of usable cores.
        priority: where memory is short, the models of the lowest priority give memory back first; the next ones do at
            the next look, if that was not enough.
        config: the model's own readings; None: those of all models.
        """
        top = len(model.levels) - 1
        limits = LevelLimiter(model.levels, config or self._config)
        with self._lock:
            self._watched.append(
                _Watched(
                    model=model,
                    scheduler=scheduler,
                    limits=limits,
                    limit=LevelLimit(top, top, ""),
                    follows_cores=follows_cores,
                    priority=priority,
                )
            )
            self._watched.sort(key=lambda each: each.priority)

    def change(self, scheduler: Limited, priority: int, config: LimitConfig | None = None) -> None:
        """Give a watched model another priority and, where `config` is given, other readings: it begins without limits,
        and the next looks find those that the readings ask for."""
        with self._lock:
            for each in self._watched:
                if each.scheduler is scheduler:
                    each.priority = priority
                    if config is not None:
                        each.limits = LevelLimiter(each.model.levels, config)
            self._watched.sort(key=lambda each: each.priority)

    def unwatch(self, model: Model) -> None:
        """Limit `model` no more; without effect where it is not watched. A look under way may still limit it."""
        with self._lock:
            self._watched = [each for each in self._watched if each.model is not model]

    def start(self) -> None:
        """Begin to look at the sensors, in a thread of its own."""
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """End the looks. Waits for the look under way, `timeout_s` at most: a probe may hang. May be called again."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def __enter__(self) -> Governor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def limits(self) -> tuple[tuple[str, LevelLimit], ...]:
        """The limit of each watched model now, by its name, from any thread."""
        with self._lock:
            return tuple((each.model.name, each.limit) for each in self._watched)

    def look(self) -> None:
        """Look at the sensors once and limit every model. An error with one model is logged."""
        sample, now_s = self.monitor.sample(), self._clock()
        with self._lock:
            watched = list(self._watched)
        given_by = None  # priority of the models that have just given memory back
        for each in watched:
            if self._closed.is_set():
                return
            if not any(each is other for other in self._watched):  # taken away since the look began
                continue
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
        # before its pages are given back: a run that began in between would read them again
        watched.scheduler.limit(limit.highest_level, limit.reason)
        watched.limit = limit
    # also without a change: runs under way, and requests that ask for a level, may have read pages again
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
        watched.differs_since_s = None  # so that a failure is not repeated at once
        before, model.threads = model.threads, cores
        _LOGGER.info("%s: cores: %d usable: threads %d -> %d", model.name, cores, before, cores)


def _without_memory(sample: ResourceSample) -> ResourceSample:
    return replace(sample, available_memory_bytes=None, memory_stall_percent=None)
