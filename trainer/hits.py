"""Hits: which samples a classifier gets right."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nested_sparse.errors import TrainingError


def hits(outputs: Any, targets: Any, doing: str) -> Tensor:
    """Whether the largest of the logits (N, classes, ...) is the target, a class index (N, ...); bool, like targets.

    doing: the function that asks, for messages. Raises TrainingError: outputs or targets are something else.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim < 2:
        raise TrainingError(
            f"{doing} needs a model that answers with its logits alone (N, classes, ...), got {_kind(outputs)}; nest a "
            "module whose forward returns the logits, or count for yourself, with net.set_level(level) for each level"
        )
    chosen = outputs.argmax(dim=1)
    if not isinstance(targets, Tensor) or targets.shape != chosen.shape:
        raise TrainingError(
            f"{doing} needs targets that are class indices {tuple(chosen.shape)}, one for each answer, got "
            f"{_kind(targets)}"
        )
    return chosen == targets


def _kind(value: object) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
