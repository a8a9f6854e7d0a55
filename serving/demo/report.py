"""Report: what each configuration made of the same load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from nested_sparse.serving.demo.open_loop import Outcome
from nested_sparse.serving.demo.plan import PHASES


@dataclass(frozen=True, slots=True)
class Row:
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


def rows_of(configuration: str, outcomes: Sequence[Outcome], labels: Sequence[NDArray[np.int64]]) -> list[Row]:
    """A row for each phase and one for "all". `labels[item]` are the classes of the images in that batch."""
    names = [phase.name for phase in PHASES]
    phases = {name: [outcome for outcome in outcomes if outcome.arrival.phase == name] for name in names}
    return [_row(configuration, phase, part, labels) for phase, part in [*phases.items(), ("all", list(outcomes))]]


def _row(configuration: str, phase: str, outcomes: list[Outcome], labels: Sequence[NDArray[np.int64]]) -> Row:
    status = Counter(outcome.status for outcome in outcomes)
    answered = [outcome.latency_ms for outcome in outcomes if outcome.output is not None]
    images = sum(len(labels[outcome.arrival.item]) for outcome in outcomes)
    p50_ms, p99_ms = np.percentile(answered, [50, 99]) if answered else (float("nan"), float("nan"))
    return Row(
        configuration=configuration,
        phase=phase,
        offered=len(outcomes),
        attainment=status["ok"] / max(1, len(outcomes)),
        accuracy=sum(_correct(outcome, labels) for outcome in outcomes) / max(1, images),
        p50_ms=float(p50_ms),
        p99_ms=float(p99_ms),
        shed=status["shed"],
        late=status["late"] + status["expired"],
        errors=status["error"],
        levels=dict(sorted(Counter(outcome.level for outcome in outcomes if outcome.level is not None).items())),
    )


def _correct(outcome: Outcome, labels: Sequence[NDArray[np.int64]]) -> int:
    """Images answered right and in time."""
    if outcome.status != "ok" or outcome.output is None:
        return 0
    return int((outcome.output.argmax(axis=1) == labels[outcome.arrival.item]).sum())
