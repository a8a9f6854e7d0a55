"""Evaluation: the metrics of each level, such as its accuracy and its disagreement with the densest level."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch

from nested_sparse.errors import TrainingError
from nested_sparse.level import ACCURACY, DISAGREEMENT

from .batch import device_of, moved, pairs, run
from .entry import entry
from .file_model import FileModel
from .model.modes import evaluating
from .model.nested_model import NestedModel, require_nested
from .model.preserved import preserved, preserved_generators
from .tasks import Task
from .tasks.classification import DEFAULT


@entry(TrainingError)
def accuracy_per_level(net: NestedModel, batches: Iterable[tuple[Any, Any]]) -> list[float]:
    """Top-1 accuracy in [0, 1] of every level, with the model in eval mode; see `metrics_per_level`."""
    return _net_metrics(net, batches, DEFAULT, "accuracy_per_level")[ACCURACY]


@entry(TrainingError)
def metrics_per_level(
    net: NestedModel, batches: Iterable[tuple[Any, Any]], *, task: Task | None = None
) -> dict[str, list[float]]:
    """The metrics of every level by name, as `export` takes them, with the model in eval mode.

    "accuracy": top-1 accuracy, in [0, 1]. "disagreement": share of the answers whose class is not the densest level's,
    in [0, 1]; 0 for the densest. Two levels of equal accuracy may still be wrong on different samples.

    Of another `task` the first metric is its own; see its class.

    batches: (inputs, class indices), read once. The model's outputs are logits with the classes in dimension 1. Batch
    sizes matter for a model whose samples influence one another, e.g. by batch statistics. Level and mode of the model
    are restored. Raises TrainingError: no batch, or outputs or targets of another kind.
    """
    return _net_metrics(net, batches, task, "metrics_per_level")


@entry(TrainingError)
def file_accuracy(path: str | os.PathLike[str], batches: Iterable[tuple[Any, Any]]) -> list[float]:
    """Top-1 accuracy in [0, 1] of every level of a checkpoint, run as a device runs it; see `file_metrics`."""
    return _file_metrics(path, batches, DEFAULT, "file_accuracy")[ACCURACY]


@entry(TrainingError)
def file_metrics(
    path: str | os.PathLike[str], batches: Iterable[tuple[Any, Any]], *, task: Task | None = None
) -> dict[str, list[float]]:
    """The metrics of every level of a checkpoint, whose only output is logits, run as a device runs it.

    The metrics, batches and task are those of `metrics_per_level`; inputs are the tensors of the file's inputs, in
    order. Raises TrainingError, and what `runtime.Session` does.
    """
    return _file_metrics(path, batches, task, "file_metrics")


@torch.no_grad()
def _net_metrics(
    net: NestedModel, batches: Iterable[tuple[Any, Any]], task: Task | None, doing: str
) -> dict[str, list[float]]:
    require_nested(net, TrainingError)
    level, device = net.level, device_of(net)

    def answer(inputs: Any, index: int) -> Any:
        net.set_level(index)
        return run(net, inputs)

    try:
        with evaluating(net), preserved(net.model):
            moved_pairs = (moved(pair, device) for pair in pairs(batches))
            return _metrics(answer, net.level_count, moved_pairs, task, doing)
    finally:
        net.set_level(level)


def _file_metrics(
    path: str | os.PathLike[str], batches: Iterable[tuple[Any, Any]], task: Task | None, doing: str
) -> dict[str, list[float]]:
    model = FileModel(path)

    def answer(inputs: Any, index: int) -> Any:
        model.level = index
        return run(model, inputs)

    with model.session as session:
        return _metrics(answer, len(session.levels), pairs(batches), task, doing)


def _metrics(
    answer: Callable[[Any, int], Any],
    levels: int,
    batches: Iterable[tuple[Any, Any]],
    task: Task | None,
    doing: str,
) -> dict[str, list[float]]:
    task = DEFAULT if task is None else task
    tallies, differing, count, read = [task.tally() for _ in range(levels)], [0] * levels, 0, 0
    for inputs, targets in batches:
        read += 1
        judged = [task.judged(answer(inputs, level), targets, doing) for level in range(levels)]
        for level, (scores, choices) in enumerate(judged):
            tallies[level].add(scores)
            differing[level] += int((choices != judged[-1].choices).sum())
        count += len(judged[-1].choices)  # of a segmentation, those of every position
    if not count:
        raise _nothing_counts(task, read, doing)
    return {task.quality: [each.result() for each in tallies], DISAGREEMENT: [each / count for each in differing]}


@torch.no_grad()
def check_scored(net: NestedModel, batches: Iterable[tuple[Any, Any]], task: Task, doing: str) -> None:
    """Raise TrainingError where `metrics_per_level` would, as far as the first batch tells in which an item counts.

    The model runs at its present level; it and the random generators are left as they were.
    """
    device, read = device_of(net), 0
    task.tally()
    with preserved_generators(), evaluating(net), preserved(net.model):
        for inputs, targets in pairs(batches):
            read += 1
            if len(task.judged(run(net, moved(inputs, device)), moved(targets, device), doing).choices):
                return
    raise _nothing_counts(task, read, doing)


def _nothing_counts(task: Task, batches: int, doing: str) -> TrainingError:
    if not batches:
        return TrainingError(f"{doing} needs at least one sample, got none")
    return TrainingError(f"{doing} needs {task.counted}, got none in {batches} batches; correct the targets")
