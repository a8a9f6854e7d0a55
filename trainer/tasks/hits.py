"""Hits: the samples that a classifier gets right, and the classes that it chooses."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nested_sparse.errors import TrainingError

from .classes import check_shape
from .task import kind


def hits(outputs: Any, targets: Any, doing: str) -> Tensor:
    """Whether the largest logit is at the target; bool, the shape of `targets`. Arguments and errors: see `choices`."""
    right: Tensor = choices(outputs, targets, doing) == targets
    return right


def choices(outputs: Any, targets: Any, doing: str, advice: str = "") -> Tensor:
    """The class of the largest logit; int64, the shape of `targets`.

    outputs: logits (N, classes, ...). targets: class indices (N, ...). doing: name of the calling function, for
    messages. advice: the next step where the shapes do not fit. Raises TrainingError: outputs or targets are of another
    kind.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim < 2:
        raise TrainingError(
            f"{doing} needs a model that answers with its logits alone (N, classes, ...), got {kind(outputs)}; nest a "
            "module whose forward returns the logits, or count hits in your own loop, with net.set_level(level)"
        )
    check_shape(outputs, targets, doing, advice)
    return outputs.argmax(dim=1)
