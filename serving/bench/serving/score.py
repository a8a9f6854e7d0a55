"""Score: the result of one configuration under one load; shares are of all offered requests."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from .reference import Graded

ADAPTED_AFTER = 3
"""In-time answers in a row that show that the level has adapted."""
BLOCK_S = 0.5
"""Longer than a queue lasts: what happens in one block says little of the next one."""


@dataclass(frozen=True, slots=True)
class Score:
    """Counts of requests, and the figures computed from them.

    attainment: share answered in time. effective_accuracy: mean score over all offered requests; late and lost ones
    score 0. mean_accuracy: mean score of the in-time answers, None without any. p50_ms, p99_ms: percentiles over the
    answers. p99_offered_ms: percentile over all offered requests, where a lost one counts as infinite; None where more
    than 1 % are lost. lowered: answers whose level fell during the inference.
    """

    offered: int
    in_time: int
    attainment: float
    effective_accuracy: float
    mean_accuracy: float | None
    p50_ms: float | None
    p99_ms: float | None
    p99_offered_ms: float | None
    shed: int
    late: int
    expired: int
    errors: int
    levels: dict[int, int]
    lowered: int
    wrong: int
    unverified: int

    @property
    def misses(self) -> int:
        """Offered and not answered in time."""
        return self.offered - self.in_time

    def to_json(self) -> dict[str, object]:
        """Plain types, for the final line."""
        return asdict(self)


def score_of(graded: Sequence[Graded]) -> Score:
    """The score of these requests."""
    status = Counter(each.outcome.status for each in graded)
    check = Counter(each.check for each in graded)
    in_time = [each.score for each in graded if each.in_time]
    answered_ms = [each.outcome.latency_ms for each in graded if each.answered]
    offered_ms = [each.outcome.latency_ms if each.answered else math.inf for each in graded]
    levels = Counter(each.outcome.level for each in graded if each.outcome.level is not None)
    return Score(
        offered=len(graded),
        in_time=len(in_time),
        attainment=len(in_time) / max(1, len(graded)),
        effective_accuracy=sum(in_time) / max(1, len(graded)),
        mean_accuracy=sum(in_time) / len(in_time) if in_time else None,
        p50_ms=percentile(answered_ms, 50),
        p99_ms=percentile(answered_ms, 99),
        p99_offered_ms=percentile(offered_ms, 99),
        shed=status["shed"],
        late=status["late"],
        expired=status["expired"],
        errors=status["error"],
        levels=dict(sorted(levels.items())),
        lowered=sum(each.outcome.lowering is not None for each in graded),
        wrong=check["wrong"],
        unverified=check["unverified"],
    )


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The smallest value that at least `percent` % of `values` do not exceed; None without values or if infinite."""
    if not values:
        return None
    found = float(np.percentile(values, percent, method="inverted_cdf"))
    return found if math.isfinite(found) else None


def missed_before_adapting(graded: Sequence[Graded], begin_s: float) -> int:
    """Number of late or lost requests from `begin_s` on, until ADAPTED_AFTER answers in a row are in time.

    Where that never happens, every late or lost request counts. graded: requests in order of arrival.
    """
    missed = in_a_row = 0
    for each in graded:
        if each.outcome.arrival.at_s < begin_s:
            continue
        in_a_row = in_a_row + 1 if each.in_time else 0
        missed += not each.in_time
        if in_a_row == ADAPTED_AFTER:
            break
    return missed


def standard_error(ours: Sequence[Sequence[Graded]], theirs: Sequence[Sequence[Graded]]) -> float | None:
    """Standard error of the difference of two servers' effective accuracies on the same arrivals, in segments.

    Requests that wait for each other succeed or fail together, so the differences are summed over blocks of BLOCK_S,
    and the error is that of a ratio of sums (difference, requests) over them. None for fewer than two blocks.
    """
    differences: defaultdict[tuple[int, int], float] = defaultdict(float)
    requests: Counter[tuple[int, int]] = Counter()
    for segment, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        for graded, sign in ((one, 1.0), (other, -1.0)):
            for each in graded:
                block = (segment, int(each.outcome.arrival.at_s / BLOCK_S))
                differences[block] += sign * each.score if each.in_time else 0.0
                requests[block] += sign > 0
    blocks, offered = len(requests), sum(requests.values())
    if blocks < 2 or not offered:
        return None
    mean = sum(differences.values()) / offered
    spread = sum((differences[block] - mean * requests[block]) ** 2 for block in requests)
    return math.sqrt(spread * blocks / (blocks - 1)) / offered
