"""Classification: one class of several for each item; the default task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nested_sparse.level import ACCURACY

from .classes import OfClasses, check_indices, check_range
from .hits import choices
from .task import IGNORED, Judged, check_logits


@dataclass(frozen=True, slots=True)
class Classification(OfClasses):
    """Logits (N, classes, ...), class indices (N, ...), cross-entropy, top-1 accuracy. Targets of -100 are left out."""

    classes_last: bool = False
    """Whether the classes are the last dimension of the logits, (N, ..., classes), as of the nodes of a graph."""
    quality = ACCURACY

    def check(self, outputs: Any, targets: Any) -> None:
        """Check a batch; targets may also be probabilities, of the shape of the logits, which have no accuracy."""
        logits, doing = self.classes_second(outputs), "the loss of classification"
        both = isinstance(logits, Tensor) and isinstance(targets, Tensor)
        if both and targets.is_floating_point() and targets.shape == logits.shape:
            return
        choices(logits, targets, doing, self._advice(outputs, targets))
        check_indices(targets, doing)
        check_range(logits, targets, doing)

    def judged(self, outputs: Any, targets: Any, doing: str) -> Judged:
        """Whether each item's largest logit is at its target."""
        chosen = choices(self.classes_second(outputs), targets, doing, self._advice(outputs, targets))
        counted = targets != IGNORED
        return Judged((chosen == targets)[counted], chosen[counted])

    def logits(self, outputs: Any) -> Tensor:
        """The outputs, with the classes in dimension 1."""
        return check_logits(self.classes_second(outputs))

    def classes_second(self, outputs: Any) -> Any:
        """The outputs, with the classes in dimension 1."""
        movable = self.classes_last and isinstance(outputs, Tensor) and outputs.ndim > 2
        return outputs.movedim(-1, 1) if movable else outputs

    def _advice(self, outputs: Any, targets: Any) -> str:
        """The next step where targets do not have the shape of the answers."""
        if isinstance(outputs, Tensor) and isinstance(targets, Tensor):
            if outputs.ndim > 2 and not self.classes_last and targets.shape == outputs.shape[:-1]:
                return "if the classes are the last dimension of the logits, set [task] classes_last = true"
            if outputs.ndim > 2 and self.classes_last and targets.shape == outputs[:, 0].shape:
                return "if the classes are dimension 1 of the logits, leave [task] classes_last out"
            if targets.shape == outputs.shape:
                return 'relevances are for [task] name = "ranking"; of classes as rows of 0 and 1 give argmax(1)'
        return ""


DEFAULT = Classification()
"""The task of a recipe, or a call, that names none."""
