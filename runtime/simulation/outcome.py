"""SimulatedOutcome: how one request of a simulation ended; Summary: how all of them did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from nested_sparse.errors import DeadlineError, OverloadedError

from ..scheduling import Response


@dataclass(slots=True)
class SimulatedOutcome:
    """How one request ended.

    arrived_s, ended_s: clock readings.  score: expected accuracy of its answer, NaN if there is none or none is stated.
    """

    arrived_s: float
    slo_ms: float
    future: Future[Response]
    ended_s: float = math.nan
    score: float = math.nan

    @property
    def level(self) -> int | None:
        """The level its response names; None if it got none."""
        return self.future.result().level.index if self.future.exception() is None else None

    @property
    def in_time(self) -> bool:
        """Whether it was answered within its SLO."""
        return self.level is not None and self.ended_s <= self.arrived_s + self.slo_ms / 1e3

    @property
    def late(self) -> bool:
        """Whether it was answered after its SLO."""
        return self.level is not None and not self.in_time

    @property
    def shed(self) -> bool:
        """Whether it was turned away."""
        return isinstance(self.future.exception(), OverloadedError)

    @property
    def expired(self) -> bool:
        """Whether it was never run because its time was over."""
        return isinstance(self.future.exception(), DeadlineError)


@dataclass(frozen=True, slots=True)
class Summary:
    """All offered requests: what was not answered in time counts as wrong.

    effective_accuracy: mean score over all offered, those not in time 0 (Model-Switching, HotCloud'20).
    attainment: share in time.  mean_accuracy: of those in time, NaN if there are none.
    misses: not in time, of them late, shed and expired.  levels: answers in time per level.
    """

    offered: int
    effective_accuracy: float
    attainment: float
    mean_accuracy: float
    misses: int
    late: int
    shed: int
    expired: int
    levels: tuple[int, ...]


def summarise(outcomes: Sequence[SimulatedOutcome], level_count: int) -> Summary:
    """The summary of a simulation's outcomes; of none, all figures are 0."""
    answered = [outcome for outcome in outcomes if outcome.in_time]
    total = math.fsum(outcome.score for outcome in answered)
    offered = len(outcomes)
    levels = [outcome.level for outcome in answered]
    return Summary(
        offered=offered,
        effective_accuracy=total / max(offered, 1),
        attainment=len(answered) / max(offered, 1),
        mean_accuracy=total / len(answered) if answered else math.nan,
        misses=offered - len(answered),
        late=sum(outcome.late for outcome in outcomes),
        shed=sum(outcome.shed for outcome in outcomes),
        expired=sum(outcome.expired for outcome in outcomes),
        levels=tuple(levels.count(level) for level in range(level_count)),
    )
