"""Reference: every level's outputs for every item, computed here, and the check of a server's answers with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nested_sparse.level import stated_accuracies
from nested_sparse.runtime.session import Session

from .item import by_name
from .lowered import Lowered, LoweredOutputs
from .open_loop import Outcome
from .workload import Workload

RELATIVE_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Graded:
    """An outcome and its grade; the output itself is dropped.

    score: share of its samples that are right, in time or not; without labels, the accuracy that the file states for
    the level; 1 where that is not known either; 0 where no answer came. check: "right"; "wrong": the output is not that
    of the level that the answer names; "unverified": there is no output to compare with; "": no answer came.
    """

    outcome: Outcome
    score: float
    check: str

    @property
    def in_time(self) -> bool:
        """Answered within the SLO."""
        return self.outcome.status == "ok"

    @property
    def answered(self) -> bool:
        """Answered at all."""
        return self.check != ""


@dataclass(frozen=True, slots=True)
class Reference:
    """expected: [level][item] outputs, empty for a model that is not here. labels: [item], None where unknown.

    stated: the file's own accuracy, by level; empty where it has none. lowered: the output of a run whose level fell,
    None where it cannot be told.
    """

    expected: Sequence[Sequence[NDArray[Any]]]
    labels: Sequence[NDArray[np.int64]] | None
    stated: Sequence[float]
    lowered: Callable[[Lowered], NDArray[Any] | None] = lambda key: None

    def grade(self, outcome: Outcome) -> Graded:
        """Compare the answer with the level's own and with the labels."""
        if outcome.output is None:
            return Graded(outcome, 0.0, "")
        return Graded(replace(outcome, output=None), self._score(outcome), self._check(outcome))

    def level_score(self, level: int, items: Sequence[int]) -> float:
        """Mean score of `level` on `items`, if it answers all of them."""
        if self.labels is None:
            return self.stated[level] if self.stated else 1.0
        return float(np.mean([right_share(self.expected[level][item], self.labels[item]) for item in items]))

    def _score(self, outcome: Outcome) -> float:
        assert outcome.output is not None
        if self.labels is not None:
            return right_share(outcome.output, self.labels[outcome.arrival.item])
        if outcome.accuracy is not None:
            return outcome.accuracy
        return self.stated[outcome.level] if outcome.level is not None and self.stated else 1.0

    def _check(self, outcome: Outcome) -> str:
        item, end, lowering = outcome.arrival.item, outcome.level, outcome.lowering
        assert outcome.output is not None
        if end is None or not self.expected:
            return "unverified"
        if not 0 <= end < len(self.expected):
            return "wrong"
        expected: NDArray[Any] | None = self.expected[end][item]
        if lowering is not None:
            # of a run that was lowered twice only the last fall is known, so it cannot be made again
            route = (item, lowering.started_level, end, lowering.lowered_at)
            expected = None if lowering.fell_again else self.lowered(route)
        if expected is None:
            return "unverified"
        return "right" if agrees(outcome.output, expected) else "wrong"


def make_reference(workload: Workload, session: Session | None) -> Reference:
    """The reference of a workload. session: an open one of its checkpoint; None: no outputs to compare with."""
    if session is None:
        return Reference([], workload.labels, [])
    output = session.outputs[0].name
    inputs = [by_name(item, [spec.name for spec in session.inputs]) for item in workload.items]
    expected = [[session.run(each, level.index)[output] for each in inputs] for level in session.levels]
    stated = stated_accuracies(session.levels) or []
    return Reference(expected, workload.labels, stated, LoweredOutputs(session, workload.items))


def right_share(output: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """Share of the samples whose largest output is at their class."""
    return float((output.argmax(axis=1) == labels).mean()) if output.shape[:1] == labels.shape else 0.0


def agrees(got: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Within RELATIVE_TOLERANCE of the largest magnitude."""
    if got.shape != expected.shape or not np.isfinite(got).all():
        return False
    return bool(np.abs(got - expected).max() <= RELATIVE_TOLERANCE * np.abs(expected).max())
