"""Evaluation: the accuracy of each level."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch

from nested_sparse.errors import TrainingError

from .batch import device_of, moved, pairs, run
from .entry import entry
from .hits import hits
from .model.modes import evaluating
from .model.nested_model import NestedModel, require_nested
from .model.preserved import preserved
from .model.structure import tensors_in


@entry(TrainingError)
@torch.no_grad()
def accuracy_per_level(net: NestedModel, batches: Iterable[tuple[Any, Any]]) -> list[float]:
    """Top-1 accuracy in [0, 1] of every level, with the model in eval mode.

    batches: (inputs, class indices), read once. The model's outputs are logits with the classes in dimension 1. Batch
    sizes matter for a model whose samples influence one another, e.g. by batch statistics. Level and mode of the model
    are restored. Raises TrainingError: no batch, or outputs or targets of another kind.
    """
    require_nested(net, TrainingError)
    level, device = net.level, device_of(net)

    def answer(inputs: Any, index: int) -> Any:
        net.set_level(index)
        return run(net, inputs)

    try:
        with evaluating(net), preserved(net.model):
            moved_pairs = (moved(pair, device) for pair in pairs(batches))
            return _accuracies(answer, net.level_count, moved_pairs, "accuracy_per_level")
    finally:
        net.set_level(level)


@entry(TrainingError)
def file_accuracy(path: str | os.PathLike[str], batches: Iterable[tuple[Any, Any]]) -> list[float]:
    """Top-1 accuracy in [0, 1] of every level of a checkpoint, whose only output is logits, run as a device runs it.

    batches: as of `accuracy_per_level`; inputs are the tensors of the file's inputs, in order. Raises TrainingError,
    and what `runtime.Session` does.
    """
    # a file is scored on the runtime that will run it
    from nested_sparse.runtime import Session

    with Session(path) as session:
        names = [spec.name for spec in session.inputs]

        def answer(inputs: Any, index: int) -> Any:
            tensors = [tensor for _, tensor in tensors_in(inputs)]
            feeds = {name: tensor.cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}
            outputs = list(session.run(feeds, level=index).values())
            return torch.from_numpy(outputs[0]) if len(outputs) == 1 else outputs

        return _accuracies(answer, len(session.levels), pairs(batches), "file_accuracy")


def _accuracies(
    answer: Callable[[Any, int], Any], levels: int, batches: Iterable[tuple[Any, Any]], doing: str
) -> list[float]:
    correct, count = [0] * levels, 0
    for inputs, targets in batches:
        for level in range(levels):
            correct[level] += int(hits(answer(inputs, level), targets, doing).sum())
        count += targets.numel()
    if not count:
        raise TrainingError(f"{doing} needs at least one sample, got none")
    return [right / count for right in correct]
