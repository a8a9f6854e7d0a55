"""Evaluation: the accuracy of each level."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from nested_sparse.errors import TrainingError

from .batch import device_of, moved, pairs, run
from .entry import entry
from .hits import hits
from .model.modes import evaluating
from .model.nested_model import NestedModel, require_nested
from .model.preserved import preserved


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
    correct, count = [0] * net.level_count, 0
    try:
        with evaluating(net), preserved(net.model):
            for inputs, targets in pairs(batches):
                inputs, targets = moved(inputs, device), moved(targets, device)
                for index in range(net.level_count):
                    net.set_level(index)
                    correct[index] += int(hits(run(net, inputs), targets, "accuracy_per_level").sum())
                count += targets.numel()
    finally:
        net.set_level(level)
    if not count:
        raise TrainingError("accuracy_per_level needs at least one sample, got none")
    return [right / count for right in correct]
