"""SlackFitPolicy: the policy of SuperServe (NSDI 2025), which goes by the slack of the head of the queue."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nested_sparse.errors import InputError

from ..profiling import LatencyProfile
from .decision import Decision, Waiting
from .insensitive import InsensitivePolicy
from .slowdown import Slowdown

BUCKETS = 32


@dataclass(frozen=True, slots=True)
class Bucket:
    """The level and batch that run when the head of the queue has at least `latency_ms` left."""

    latency_ms: float
    level: int
    batch: int


class SlackFitPolicy(InsensitivePolicy):
    """SlackFit of SuperServe (NSDI'25, section 4): the slack of the head of the queue picks a bucket with its action.

    Offline there are `buckets` latencies, evenly spaced from the sparsest level at batch 1 to the densest level at the
    largest batch. A bucket considers the actions slower than the bucket below and no slower than its own latency. It
    keeps the largest batch, and of those the densest level; where there is none, the action of the bucket below. Online
    the bucket closest below the slack is taken, or the lowest. Its batch is taken from the queue, as far as it goes.

    joins: requests of the model may run together; else all actions are of batch 1.
    slowdown, workers: ignored, for it knows no slowdown; they are there so that it can replace other policies.
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
        # the buckets hold for the example's sizes: a run that takes twice as long has half as much slack
        longer = self._profile.predict_ms(0, 1, request.sizes) / self._profile.predict_ms(0, 1)
        place = bisect.bisect_right(self.buckets, slack_ms / longer, key=lambda bucket: bucket.latency_ms)
        bucket = self.buckets[max(place - 1, 0)]
        level = min(max(bucket.level, request.lowest_level), request.highest_level)
        take, samples = 1, request.batch
        for each in queue:
            joins = request.joins and each.joins and each.sizes == request.sizes
            allowed = joins and each.lowest_level <= level <= each.highest_level
            if samples + each.batch > bucket.batch or not allowed:
                break
            take, samples = take + 1, samples + each.batch
        reason = f"bucket of {bucket.latency_ms:.1f} ms for {slack_ms:.1f} ms left"
        return Decision(level, self._profile.predict_ms(level, samples, request.sizes), reason, take=take)


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
