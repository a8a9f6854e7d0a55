"""Hits: the samples that a classifier gets right, and the classes that it chooses."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nested_sparse.errors import TrainingError

from .task import kind


def hits(outputs: Any, targets: Any, doing: str) -> Tensor:
    """Whether the largest logit is at the target; bool, the shape of `targets`. Arguments and errors: see `choices`."""
    right: Tensor = choices(outputs, targets, doing) == targets
    return right


def choices(outputs: Any, targets: Any, doing: str) -> Tensor:
    """The class of the largest logit; int64, the shape of `targets`.

    outputs: logits (N, classes, ...). targets: class indices (N, ...). doing: name of the calling function, for
    messages. Raises TrainingError: outputs or targets are of another kind.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim < 2:
        raise TrainingError(
            f"{doing} needs a model that answers with its logits alone (N, classes, ...), got {kind(outputs)}; nest a "
            "module whose forward returns the logits, or count hits in your own loop, with net.set_level(level)"
        )
    chosen = outputs.argmax(dim=1)
    if not isinstance(targets, Tensor) or targets.shape != chosen.shape:
        raise TrainingError(
            f"{doing} needs targets that are class indices {tuple(chosen.shape)}, one for each answer, got "
            f"{kind(targets)}"
        )
    return chosen
