"""Language: the next byte of a text at each position."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from nested_sparse.errors import TrainingError

from ..checked import require_one_of
from .classes import OfClasses, check_indices, check_range
from .task import IGNORED, Judged, check_logits, kind

UNITS = ("byte", "word")


@dataclass(frozen=True, slots=True)
class Language(OfClasses):
    """Logits (N, T, classes) of what comes next, class indices (N, T), cross-entropy, bits.

    A class is a byte, or whatever the data cuts the text into; bits are per class. Targets of -100 are left out.
    """

    unit: str = UNITS[0]
    """The thing that a class stands for: byte or word. The metric is named after it."""
    higher_is_better = False

    def __post_init__(self) -> None:
        """Check the field. Raises TrainingError."""
        require_one_of(self, "unit", UNITS)

    @property
    def quality(self) -> str:  # type: ignore[override]
        """The metric's name, such as bits_per_byte."""
        return f"bits_per_{self.unit}"

    def check(self, outputs: Any, targets: Any) -> None:
        """Check a batch."""
        _check(outputs, targets, "the loss of language")
        check_range(self.logits(outputs), targets, "the loss of language")

    def judged(self, outputs: Any, targets: Any, doing: str) -> Judged:
        """Bits of each position's target, and the likeliest class there."""
        _check(outputs, targets, doing)
        counted = targets != IGNORED
        logits, wanted = outputs[counted].double(), targets[counted]
        check_range(logits, wanted, doing)
        return Judged(F.cross_entropy(logits, wanted, reduction="none") / math.log(2), logits.argmax(1))

    def logits(self, outputs: Any) -> Tensor:
        """(N, classes, T)."""
        return self.classes_second(outputs)

    def classes_second(self, outputs: Any) -> Tensor:
        """(N, classes, T)."""
        return check_logits(outputs, "(N, T, classes)", 3).movedim(-1, 1)


def _check(outputs: Any, targets: Any, doing: str) -> None:
    """Raise TrainingError unless kinds and shapes are those of a text's logits and classes."""
    fits = isinstance(outputs, Tensor) and outputs.ndim == 3 and isinstance(targets, Tensor)
    if not fits or targets.shape != outputs.shape[:2]:
        raise TrainingError(
            f"{doing} needs logits (N, T, classes) and targets that are class indices (N, T), got {kind(outputs)} "
            f"and {kind(targets)}; nest a module whose forward returns the logits of each position"
        )
    check_indices(targets, doing)
