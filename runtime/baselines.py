"""Baselines: how other systems would choose the level. They trust the profile, whatever the device is doing."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nested_sparse.errors import InputError
from nested_sparse.runtime.forecast import Decision, Waiting
from nested_sparse.runtime.profile import LatencyProfile
from nested_sparse.runtime.slowdown import Slowdown

BUCKETS = 32


class _Insensitive:
    """Takes every request in, learns nothing, and sheds nothing: only what has expired is not run."""

    def __init__(self, profile: LatencyProfile) -> None:
        self._profile = profile

    def admit(self, request: Waiting, queue: Sequence[Waiting], busy_ms: float, now_s: float) -> Decision:
        """As LevelPolicy."""
        level = request.lowest_level
        return Decision(level, self._profile.predict_ms(level, request.batch), "admitted")

    def observe(self, level: int, batch: int, service_ms: float, now_s: float) -> None:
        """As LevelPolicy."""

    def observe_gap(self, gap_ms: float) -> None:
        """As LevelPolicy: it learns nothing."""

    def spare_ms(self, queue: Sequence[Waiting], now_s: float) -> float:
        """As LevelPolicy: its runs are never lowered."""
        return math.inf

    def slowdown_factor(self, now_s: float) -> float:
        """As LevelPolicy."""
        return 1.0


@dataclass(frozen=True, slots=True)
class Bucket:
    """What runs when the head of the queue has at least `latency_ms` left."""

    latency_ms: float
    level: int
    batch: int


class SlackFitPolicy(_Insensitive):
    """SlackFit of SuperServe (NSDI'25, section 4): the slack of the head of the queue picks a bucket, that its action.

    Offline: `buckets` latencies, evenly spaced from the sparsest level at batch 1 to the densest at the largest batch.
    Each keeps, of the actions slower than the bucket below and no slower than its own, the largest batch and of those
    the densest level; one without any keeps what the bucket below does. Online: the bucket closest below the slack;
    the lowest when there is none. Its batch is popped from the queue, or what there is. joins: whether the model's
    requests may run together; else all its actions are of batch 1.

    It knows no slowdown: `slowdown` and `workers` are taken so that it can stand where other policies do, and ignored.
    """

    def __init__(
        self,
        profile: LatencyProfile,
        slowdown: Slowdown | None = None,
        *,
        workers: int = 1,
        buckets: int = BUCKETS,
        joins: bool = True,
    ) -> None:
        super().__init__(profile)
        if buckets < 1:
            raise InputError(f"SlackFit: expected at least 1 bucket, got {buckets}")
        self.buckets = _fill(profile, buckets, sorted({1, *profile.batches}) if joins else [1])

    def choose(self, request: Waiting, queue: Sequence[Waiting], now_s: float) -> Decision:
        """As LevelPolicy. A request that allows other levels only runs at the nearest of them."""
        slack_ms = request.slack_ms(now_s)
        place = bisect.bisect_right(self.buckets, slack_ms, key=lambda bucket: bucket.latency_ms)
        bucket = self.buckets[max(place - 1, 0)]
        level = min(max(bucket.level, request.lowest_level), request.highest_level)
        take, samples = 1, request.batch
        for each in queue:
            allowed = request.joins and each.joins and each.lowest_level <= level <= each.highest_level
            if samples + each.batch > bucket.batch or not allowed:
                break
            take, samples = take + 1, samples + each.batch
        reason = f"bucket of {bucket.latency_ms:.1f} ms for {slack_ms:.1f} ms left"
        return Decision(level, self._profile.predict_ms(level, samples), reason, take=take)


class StaticPolicy(_Insensitive):
    """Like INFaaS (ATC'21): one level, chosen offline by the profile for a rate and an SLO, and kept.

    The densest level whose run takes no longer than the SLO and, at that rate, keeps the workers busy no more than
    `utilisation` of the time; the sparsest if none does.
    """

    def __init__(
        self, profile: LatencyProfile, *, rate_per_s: float, slo_ms: float, workers: int = 1, utilisation: float = 0.9
    ) -> None:
        super().__init__(profile)
        fitting = [
            level
            for level in range(profile.level_count)
            if profile.predict_ms(level) <= slo_ms
            and profile.predict_ms(level) * rate_per_s / 1e3 <= utilisation * workers
        ]
        self.level = max(fitting, default=0)

    def choose(self, request: Waiting, queue: Sequence[Waiting], now_s: float) -> Decision:
        """As LevelPolicy. A request that does not allow the level runs at the nearest it does."""
        level = min(max(self.level, request.lowest_level), request.highest_level)
        return Decision(level, self._profile.predict_ms(level, request.batch), f"static at level {self.level}")


def _fill(profile: LatencyProfile, count: int, batches: Sequence[int]) -> tuple[Bucket, ...]:
    lowest_ms = profile.predict_ms(0, 1)
    highest_ms = profile.predict_ms(profile.level_count - 1, batches[-1])
    actions = [
        Bucket(profile.predict_ms(level, batch), level, batch)
        for level in range(profile.level_count)
        for batch in batches
    ]
    filled: list[Bucket] = []
    below_ms = -np.inf
    for edge_ms in np.linspace(lowest_ms, highest_ms, count):
        # evenly spaced sums round: the edges are meant to be the first and the last action's times
        inside = [action for action in actions if below_ms < action.latency_ms <= edge_ms * (1 + 1e-12)]
        best = max(inside, key=lambda action: (action.batch, action.level)) if inside else filled[-1]
        filled.append(Bucket(float(edge_ms), best.level, best.batch))
        below_ms = edge_ms * (1 + 1e-12)
    return tuple(filled)
