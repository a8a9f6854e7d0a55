"""Classification: one class of several for each item; the default task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nested_sparse.level import ACCURACY

from .hits import choices
from .labels import cross_entropy
from .task import IGNORED, Judged, Task, check_logits


@dataclass(frozen=True, slots=True)
class Classification(Task):
    """Logits (N, classes, ...), class indices (N, ...), cross-entropy, top-1 accuracy. Targets of -100 are left out."""

    classes_last: bool = False
    """Whether the classes are the last dimension of the logits, (N, ..., classes), as of the nodes of a graph."""
    quality = ACCURACY

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Cross-entropy, mean over the items. Raises TrainingError where the targets do not fit."""
        return cross_entropy(self._classes_second(outputs), targets)

    def judged(self, outputs: Any, targets: Any, doing: str) -> Judged:
        """Whether each item's largest logit is at its target."""
        chosen = choices(self._classes_second(outputs), targets, doing)
        counted = targets != IGNORED
        return Judged((chosen == targets)[counted], chosen[counted])

    def logits(self, outputs: Any) -> Tensor:
        """The outputs, with the classes in dimension 1."""
        return check_logits(self._classes_second(outputs))

    def _classes_second(self, outputs: Any) -> Any:
        movable = self.classes_last and isinstance(outputs, Tensor) and outputs.ndim > 2
        return outputs.movedim(-1, 1) if movable else outputs


DEFAULT = Classification()
"""The task of a recipe, or a call, that names none."""
