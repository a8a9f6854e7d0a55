"""Report: what each configuration made of the same load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ..bench.serving.open_loop import Outcome
from ..bench.serving.reference import Reference
from ..bench.serving.score import Score, score_of
from .plan import PHASES


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """One configuration in one phase, or in all of them; shares are of all offered requests, shed and late included."""

    configuration: str
    phase: str
    offered: int
    attainment: float
    accuracy: float
    p50_ms: float
    p99_ms: float
    shed: int
    late: int
    errors: int
    levels: dict[int, int]

    def to_json(self) -> dict[str, object]:
        """Plain types, for the final line."""
        return asdict(self)


def rows_of(configuration: str, outcomes: Sequence[Outcome], labels: Sequence[NDArray[np.int64]]) -> list[PhaseRow]:
    """A row for each phase and one for "all". `labels[item]` are the classes of the images in that batch."""
    reference = Reference([], labels, [])
    graded = [reference.grade(outcome) for outcome in outcomes]
    parts = {phase.name: [each for each in graded if each.outcome.arrival.phase == phase.name] for phase in PHASES}
    return [_row(configuration, phase, score_of(part)) for phase, part in [*parts.items(), ("all", graded)]]


def _row(configuration: str, phase: str, score: Score) -> PhaseRow:
    return PhaseRow(
        configuration=configuration,
        phase=phase,
        offered=score.offered,
        attainment=score.attainment,
        accuracy=score.effective_accuracy,
        p50_ms=math.nan if score.p50_ms is None else score.p50_ms,
        p99_ms=math.nan if score.p99_ms is None else score.p99_ms,
        shed=score.shed,
        late=score.late + score.expired,
        errors=score.errors,
        levels=score.levels,
    )
