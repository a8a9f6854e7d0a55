"""Classes: targets that are class indices. Their cross-entropy, and checks in words."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nested_sparse.errors import TrainingError

from .task import IGNORED, Task, kind

INDICES = (torch.int64, torch.uint8)
"""Types of class indices that torch's cross-entropy takes."""


class OfClasses(Task):
    """A task whose targets are class indices."""

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Cross-entropy in nats, mean over the items; 0 where none counts.

        Raises TrainingError where the targets do not fit, else whatever torch does.
        """
        try:
            return class_loss(self.classes_second(outputs), targets)
        except Exception:  # torch's words name neither the targets nor the next step
            self.check(outputs, targets)
            raise

    @abstractmethod
    def classes_second(self, outputs: Any) -> Any:
        """The logits with the classes in dimension 1."""


def class_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats of logits (N, classes, ...), mean over the targets but -100; 0 where there is none.

    Raises whatever torch does.
    """
    loss = F.cross_entropy(logits, targets)
    if loss.device.type == "cpu" and not loss.isnan():  # another device would have to be waited for
        return loss
    return torch.where((targets == IGNORED).all(), 0.0, loss)  # torch's is NaN there; its gradient is 0


def check_shape(logits: Tensor, targets: Any, doing: str, advice: str = "") -> None:
    """Raise TrainingError unless there is a target for each answer of the logits (N, classes, ...).

    doing: the beginning of the message. advice: the next step.
    """
    expected = (logits.shape[0], *logits.shape[2:])
    if not isinstance(targets, Tensor) or targets.shape != expected:
        raise TrainingError(
            f"{doing} needs targets that are class indices {expected}, one for each answer, got {kind(targets)}"
            + (f"; {advice}" if advice else "")
        )


def check_indices(targets: Tensor, doing: str) -> None:
    """Raise TrainingError unless the targets have a type of class indices."""
    if targets.dtype not in INDICES:
        raise TrainingError(
            f"{doing} needs targets that are class indices, int64, got {str(targets.dtype).removeprefix('torch.')} "
            f"{tuple(targets.shape)}; make them whole numbers, as targets.long() does"
        )


def check_range(logits: Tensor, targets: Tensor, doing: str) -> None:
    """Raise TrainingError unless each target is a class of the logits (N, classes, ...), or -100."""
    classes = logits.shape[1]
    wrong = targets[(targets != IGNORED) & ((targets < 0) | (targets >= classes))]
    if wrong.numel():
        raise TrainingError(
            f"{doing}: targets: expected classes from 0 to {classes - 1}, as the model has {classes} outputs for each "
            f"answer, or {IGNORED} where none counts, got {wrong[0].item()}; correct the targets, or give the model "
            "more classes ([model] classes)"
        )
