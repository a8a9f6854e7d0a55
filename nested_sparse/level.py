"""Level: one runnable point of a nested model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .argument import as_whole, shown
from .errors import LevelError

ACCURACY = "accuracy"
"""Metric of a level that policies, routes and clients go by."""
DISAGREEMENT = "disagreement"
"""Metric of a level: share of the answers, in [0, 1], whose class is not that of the densest level that was trained."""


@dataclass(frozen=True, slots=True)
class Level:
    """One runnable point of a nested model; a higher index is denser.

    index: number of the level; 0 is the sparsest.
    density: kept / all weights of the whole network, in (0, 1]; in older files of the nested layers alone.
    flops: floating point operations for one sample of the example shape, 2 for each multiply-add. They count the whole
        network, and in nested layers the weights that the level keeps; in older files the nested layers alone.
    nbytes: bytes of the checkpoint file that this level needs: the graph and every segment up to its own.
    metrics: measurements that were stored with the level, e.g. {"accuracy": 0.93, "disagreement": 0.04}.
    """

    index: int
    density: float
    flops: int
    nbytes: int
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """Accuracy that the file states of this level; None where it states none."""
        return self.metrics.get(ACCURACY)


def stated_accuracies(levels: Sequence[Level]) -> list[float] | None:
    """Accuracy of each level; None unless the file states that of every level."""
    stated = [level.accuracy for level in levels]
    known = [accuracy for accuracy in stated if accuracy is not None]
    return known if len(known) == len(stated) else None


def resolve_level(level: int, level_count: int) -> int:
    """Index of `level` among `level_count` levels; -1 is the densest.

    Raises LevelError where there is no such level, or it is not a whole number.
    """
    index = as_whole(level)
    if index == -1:
        return level_count - 1
    if index is None or not 0 <= index < level_count:
        trouble = "is not a whole number" if index is None else "is out of range"
        raise LevelError(
            f"level {shown(level)} {trouble}: this model has levels 0 to {level_count - 1} (-1 is the densest)"
        )
    return index
