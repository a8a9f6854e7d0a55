"""Contention: the share of the device that is left to the inference, over virtual time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nested_sparse.errors import InputError

from ..resources import QuotaReading

UNDISTURBED = "none"
PRESENT = ((0.2, 0.45), (0.6, 0.85))
"""The times of a co-runner, as shares of the simulation: it arrives and leaves twice."""
SLICE_MS = (3.0, 4.0)
"""Turns, s, of a fair scheduler with two busy tasks: an inference waits for whole turns."""


class Contention(Protocol):
    """Tells when a piece of work ends.

    clock: of the simulation under way, in seconds; simulate() sets it.
    """

    clock: Callable[[], float]

    @property
    def name(self) -> str: ...  # noqa: D102 -- for tables

    @property
    def quota(self) -> QuotaReading | None: ...  # noqa: D102 -- as a sensor reads it

    def end_s(self, start_s: ArrayLike, work_s: ArrayLike) -> NDArray[np.float64]:
        """Clock reading at which `work_s` seconds of undisturbed work have been done, if begun at `start_s`."""


class RateContention:
    """The inference gets the share rates[i] of the device from edges_s[i] on; before the first edge, the first rate.

    Work is what the rate sums to, so what is begun later never ends earlier, and work may be passed in pieces: the
    oracle relies on both. The rate depends on the time only. That of a real quota also depends on what the group did
    before (one that idled may run longer), but then the future would depend on all past choices and no oracle could
    know it. Raises InputError: edges must rise, rates be 0 or more, the first and the last above 0.

    quota: reading of the device's sensor from quota_s[i][0] to quota_s[i][1]; the sensor counts the stops, and the CPU
    time that the group uses, which is all that it may use.
    """

    def __init__(
        self,
        name: str,
        edges_s: Sequence[float] = (0.0,),
        rates: Sequence[float] = (1.0,),
        quota: QuotaReading | None = None,
        quota_s: Iterable[tuple[float, float]] = (),
    ) -> None:
        self.name = name
        self.clock: Callable[[], float] = lambda: -math.inf
        self._quota, self._quota_s = quota, tuple(quota_s)
        self._edges_s = np.asarray(edges_s, np.float64)
        self._rates = np.asarray(rates, np.float64)
        if len(edges_s) != len(rates) or len(rates) == 0:
            raise InputError(
                f"contention {name!r}: expected a rate for each edge, got {len(edges_s)} edges and {len(rates)} rates"
            )
        falls = np.flatnonzero(np.diff(self._edges_s) <= 0)
        if falls.size:
            before_s, after_s = self._edges_s[falls[0] : falls[0] + 2]
            raise InputError(
                f"contention {name!r}: expected rising edges, got {before_s:g} s and then {after_s:g} s; its times "
                "overlap where the whole is too short, so let it last longer"
            )
        if (self._rates < 0).any() or not min(rates[0], rates[-1]) > 0:
            raise InputError(
                f"contention {name!r}: rates are 0 or more, the first and the last above 0, "
                f"got {rates[0]} first, {min(rates)} at least and {rates[-1]} last"
            )
        self._stops_s = self._edges_s[1:][(self._rates[1:] == 0) & (self._rates[:-1] > 0)]
        self._done_s = np.concatenate(([0.0], np.cumsum(np.diff(self._edges_s) * self._rates[:-1])))

    @property
    def quota(self) -> QuotaReading | None:
        """As Contention."""
        now_s = self.clock()
        if self._quota is None or not any(begin_s <= now_s < end_s for begin_s, end_s in self._quota_s):
            return None
        stops = int(np.searchsorted(self._stops_s, now_s, side="right"))
        return replace(self._quota, used_ms=float(self._done_at(np.asarray(now_s))) * 1e3, stops=stops)

    def end_s(self, start_s: ArrayLike, work_s: ArrayLike) -> NDArray[np.float64]:
        """As Contention. Both broadcast."""
        start = np.asarray(start_s, np.float64)
        done = self._done_at(start) + np.asarray(work_s)
        # the stretch in which so much is done first: "left" passes by those of rate 0, in which nothing is
        place = np.maximum(np.searchsorted(self._done_s, done, side="left") - 1, 0)
        end: NDArray[np.float64] = self._edges_s[place] + (done - self._done_s[place]) / self._rates[place]
        return np.maximum(end, start)

    def _done_at(self, now_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Work, s, that can have been done by then since the first edge."""
        place = np.maximum(np.searchsorted(self._edges_s, now_s, side="right") - 1, 0)
        done: NDArray[np.float64] = self._done_s[place] + self._rates[place] * (now_s - self._edges_s[place])
        return done


def quiet() -> RateContention:
    """No other load."""
    return RateContention(UNDISTURBED)


def cpu_corunner(
    duration_s: float, seed: int = 0, present: Iterable[tuple[float, float]] = PRESENT, tasks: int = 1
) -> RateContention:
    """Busy tasks: each has as much of the time as the inference, in turns of 3 to 4 ms.

    One takes turns with the inference, on one core. Several move between cores, and the inference with them: between
    two of its turns there are a random number of theirs, `tasks` in the mean.
    """
    generator = np.random.default_rng(seed)
    pieces: list[tuple[float, float]] = []
    for begin, end in present:
        now_s, running = begin * duration_s, True
        while now_s < end * duration_s:
            pieces.append((now_s, float(running)))
            turns = 1 if running or tasks == 1 else max(1, generator.poisson(tasks))
            now_s += sum(generator.uniform(*SLICE_MS, turns)) / 1e3
            running = not running
        pieces.append((now_s, 1.0))
    return _contention("cpu", pieces)


def memory_corunner(
    duration_s: float, factor: float = 1.4, present: Iterable[tuple[float, float]] = PRESENT
) -> RateContention:
    """A task on another core that streams through memory: everything takes `factor` times as long, evenly."""
    pieces = [
        piece for begin, end in present for piece in ((begin * duration_s, 1.0 / factor), (end * duration_s, 1.0))
    ]
    return _contention("memory", pieces)


def quota(
    duration_s: float,
    run_ms: float = 50.0,
    period_ms: float = 100.0,
    present: Iterable[tuple[float, float]] = PRESENT,
) -> RateContention:
    """A cgroup quota that is always used up: of each period the first `run_ms` run, then all stands still.

    Whole periods, so that the last may end after the time when it leaves.
    """
    pieces: list[tuple[float, float]] = []
    spans_s = []
    for begin, end in present:
        begin_s = now_s = begin * duration_s
        for _ in range(math.ceil((end - begin) * duration_s / period_ms * 1e3 - 1e-6)):
            pieces += [(now_s, 1.0), (now_s + run_ms / 1e3, 0.0)]
            now_s += period_ms / 1e3
        pieces.append((now_s, 1.0))
        spans_s.append((begin_s, now_s))
    return _contention("quota", pieces, QuotaReading(period_ms, run_ms), spans_s)


def _contention(
    name: str,
    pieces: Sequence[tuple[float, float]],
    quota: QuotaReading | None = None,
    quota_s: Iterable[tuple[float, float]] = (),
) -> RateContention:
    whole = [(0.0, 1.0), *pieces] if pieces[0][0] > 0 else pieces
    return RateContention(name, [edge_s for edge_s, _ in whole], [rate for _, rate in whole], quota, quota_s)
