"""Labels: the cross-entropy of class indices, and what is wrong with targets that it does not take."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nested_sparse.errors import TrainingError

from .task import IGNORED, kind


def cross_entropy(logits: Any, targets: Any) -> Tensor:
    """Cross-entropy of logits (N, classes, ...), mean over the targets (N, ...) that are not -100; 0 where all are.

    Raises TrainingError where the targets do not fit.
    """
    try:
        loss = F.cross_entropy(logits, targets)
    except (TypeError, RuntimeError, IndexError, ValueError) as error:
        reason = _misfit(logits, targets)
        if reason is None:
            raise
        raise TrainingError(reason) from error
    if loss.isnan() and bool((targets == IGNORED).all()):
        loss = 0.0 * logits.sum()  # as a mean it is 0 / 0, and would end the training
    return loss


def _misfit(logits: Any, targets: Any) -> str | None:
    """The reason why `targets` are not those of `logits`; None: no known one."""
    if not isinstance(logits, Tensor) or logits.ndim < 2:
        return f"the loss needs logits (N, classes, ...), got {kind(logits)}; nest a module whose forward returns them"
    shape = (logits.shape[0], *logits.shape[2:])
    expected = f"targets: expected class indices {shape}, int64, for logits {tuple(logits.shape)}"
    if not isinstance(targets, Tensor):
        return f"{expected}, got {kind(targets)}"
    if tuple(targets.shape) != shape:
        advice = ""
        if logits.ndim > 2 and targets.shape == logits.shape[:-1]:
            advice = "; if the classes are the last dimension of the logits, set classes_last = true in [task]"
        elif targets.shape == logits.shape:
            advice = '; if they are the relevances of documents, set name = "ranking" in [task]'
        return f"{expected}, got {kind(targets)}{advice}"
    if targets.dtype not in (torch.int64, torch.uint8):
        return f"{expected}, got {str(targets.dtype).removeprefix('torch.')}; convert them with .long()"
    classes, there = logits.shape[1], targets[targets != IGNORED]
    wrong = there[(there < 0) | (there >= classes)]
    if wrong.numel():
        return (
            f"targets: expected classes 0 to {classes - 1}, or {IGNORED} to leave one out, as the model has {classes} "
            f"logits, got {int(wrong[0])}; give the model a logit for each class, or mend the data"
        )
    return None
