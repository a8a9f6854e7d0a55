"""Score: what one configuration made of one load; shares are of all offered requests, shed and late ones included."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from .reference import Graded

ADAPTED_AFTER = 3
"""In-time answers in a row that show that the level has adapted."""


@dataclass(frozen=True, slots=True)
class Score:
    """Counts, and what they mean.

    attainment: share answered in time. effective_accuracy: mean score over all offered, late and lost ones as 0.
    mean_accuracy: mean score of the in-time answers, None without any. p50_ms, p99_ms: of the answers. p99_offered_ms:
    of all offered, a lost one taking for ever: None if 1 % are lost. lowered: answers whose level fell in mid-run.
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
    """The smallest value that at least `percent` of them do not exceed; None for no values, or an infinite one."""
    if not values:
        return None
    found = float(np.percentile(values, percent, method="inverted_cdf"))
    return found if math.isfinite(found) else None


def missed_before_adapting(graded: Sequence[Graded], begin_s: float) -> int:
    """Requests late or lost of those that arrived from `begin_s` on, before ADAPTED_AFTER in a row were in time.

    If that never happens, all that were late or lost. `graded` in order of arrival.
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
