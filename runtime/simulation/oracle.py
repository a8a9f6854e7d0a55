"""The offline oracle: the best schedule that knowledge of the future allows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .traces import Trace
from .world import World

# scores are summed as integers: equal sums then are equal, whatever the order, and do not swell the frontier
_UNIT = 1e-9
# for ends that meet the deadline exactly, against rounding of the sums of times
_ROUNDING_S = 1e-9
FRONTIER = 4000


@dataclass(frozen=True, slots=True)
class OracleBound:
    """Effective accuracy of the best schedule: proven to be at most `upper`, and some schedule has `lower`.

    The two differ only where a frontier had to be thinned. frontier: the longest before thinning. in_time: requests
    that the schedule of `upper` answers in time.
    """

    upper: float
    lower: float
    frontier: int
    in_time: int


@dataclass(frozen=True)
class _Frontier:
    """States (time at which the worker is free, s, rising; score; requests in time).

    None is better than another in both of the first two.
    """

    free_s: NDArray[np.float64]
    score: NDArray[np.int64]
    in_time: NDArray[np.int64]

    @classmethod
    def of(cls, parts: Sequence[_Frontier]) -> _Frontier:
        """The best states of all parts."""
        free_s = np.concatenate([part.free_s for part in parts])
        score = np.concatenate([part.score for part in parts])
        in_time = np.concatenate([part.in_time for part in parts])
        order = np.lexsort((-score, free_s))
        free_s, score, in_time = free_s[order], score[order], in_time[order]
        better = np.concatenate(([True], score[1:] > np.maximum.accumulate(score)[:-1]))
        return cls(free_s[better], score[better], in_time[better])

    def from_time(self, time_s: float) -> _Frontier:
        """The same when nothing is begun before `time_s`: of the states that are free by then only the best counts."""
        idle = int(np.searchsorted(self.free_s, time_s, side="right"))
        if idle == 0:
            return self
        rest = slice(idle - 1, None)
        return _Frontier(np.maximum(self.free_s[rest], time_s), self.score[rest], self.in_time[rest])

    def thinned(self, limit: int, optimistic: bool) -> _Frontier:
        """At most `limit` states: groups of neighbours, each as its best time and its best score together, a bound from
        above; or else one real state of each."""
        if len(self.free_s) <= limit:
            return self
        begins = np.linspace(0, len(self.free_s), limit, endpoint=False).astype(np.int64)
        lasts = np.append(begins[1:], len(self.free_s)) - 1
        scored = lasts if optimistic else begins
        return _Frontier(self.free_s[begins], self.score[scored], self.in_time[scored])


def oracle(trace: Trace, world: World, frontier: int = FRONTIER) -> OracleBound:
    """The highest effective accuracy that one worker without preemption can have on `trace` in `world`.

    It knows every arrival, every request's noise and the contention, and may use the whole SLO: a policy's reply margin
    is part of what it loses. Each request is run at some level, or along one of the world's routes, or dropped, in the
    order of arrival. With equal SLOs that order loses nothing: if a later arrival ran right before an earlier one,
    swapping them would keep both in time, as the work until both are done is the same, the earlier one ends sooner, and
    the later one, whose deadline is no earlier, ends where the other did (Jackson's rule with agreeable release dates).
    Where the profile has batches, requests that follow each other may run as one of any size up to the largest; of
    requests whose noise differs, choosing others for a batch could gain a little more, which is not counted.

    Dynamic programme over the requests; the state is what _Frontier says. Exact up to 1e-9 unless a frontier is longer
    than `frontier`.
    """
    if len(trace.times_s) == 0:
        return OracleBound(0.0, 0.0, 1, 0)
    best = _best(trace, world, frontier, optimistic=True)
    if best.frontier <= frontier:
        return best
    return replace(best, lower=_best(trace, world, frontier, optimistic=False).lower)


def _best(trace: Trace, world: World, limit: int, *, optimistic: bool) -> OracleBound:
    """The best schedule that thinned frontiers tell of: at least as good as any where `optimistic`, else a real one."""
    count = len(trace.times_s)
    noise = world.noise(count)
    choices = [_choices(world, batch) for batch in range(1, world.profile.batches[-1] + 1)]
    reached: defaultdict[int, list[_Frontier]] = defaultdict(list)  # by number of requests decided on
    reached[0].append(_Frontier(np.zeros(1), np.zeros(1, np.int64), np.zeros(1, np.int64)))
    longest = 1
    for i, arrived_s in enumerate(trace.times_s):
        states = _Frontier.of(reached.pop(i)).from_time(arrived_s)
        longest = max(longest, len(states.free_s))
        states = states.thinned(limit, optimistic)
        due_s = arrived_s + world.slo_ms / 1e3 + _ROUNDING_S
        reached[i + 1].append(states)  # request i is dropped
        for batch, (work_s, score) in enumerate(choices[: count - i], start=1):
            last_s = trace.times_s[i + batch - 1]
            if last_s >= due_s:
                break
            begin_s = np.maximum(states.free_s, last_s)
            end_s = world.contention.end_s(begin_s, work_s[:, None] * noise[i : i + batch].mean())
            for ends_s, gain in zip(end_s, batch * score, strict=True):
                fits = ends_s <= due_s
                new = _Frontier(ends_s[fits], states.score[fits] + gain, states.in_time[fits] + batch)
                reached[i + batch].append(new)
    best = _Frontier.of(reached[count])
    accuracy = float(best.score[-1]) * _UNIT / count
    return OracleBound(accuracy, accuracy, longest, int(best.in_time[-1]))


def _choices(world: World, batch: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Seconds and score of every way to run a batch, without those that are worse than another in both."""
    level_s = np.array([world.profile.predict_ms(level, batch) for level in range(world.profile.level_count)]) / 1e3
    work_s, accuracy = [level_s], [np.asarray(world.accuracy, np.float64)]
    if world.routes is not None:
        start, end, n = np.nonzero(~np.isnan(world.routes.accuracy))
        share = world.routes.remaining_share
        work_s.append(level_s[start] * (1.0 - share[start, n]) + level_s[end] * share[end, n])
        accuracy.append(world.routes.accuracy[start, end, n])
    score = np.round(np.concatenate(accuracy) / _UNIT).astype(np.int64)
    best = _Frontier.of([_Frontier(np.concatenate(work_s), score, np.ones_like(score))])
    return best.free_s, best.score
