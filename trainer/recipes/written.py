"""Written: the checkpoints that a run writes, with the metrics of their levels inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nested_sparse.amend import store_metrics
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.value_type import INT8

from ..data.training_data import TrainingData
from ..evaluate import file_metrics, metrics_per_level
from ..export.write import export
from ..model.nested_model import NestedModel
from .recipe import Recipe


def write_float_or_int8(recipe: Recipe, data: TrainingData, net: NestedModel, path: Path) -> dict[str, list[float]]:
    """Write the checkpoint whose values [output] names, and return its metrics by name, a figure of each level."""
    output = recipe.output
    if output.values == INT8.name:
        return write_int8(recipe, data, net, path)
    metrics = _measured(recipe, lambda: metrics_per_level(net, data.scored(), task=recipe.task))
    form: dict[str, Any] = {"example_inputs": data.example, "fixed_batch": output.fixed_batch}
    if output.stepwise:
        form = net.model.stepwise()  # type: ignore[operator]
    export(
        net,
        path=path,
        **form,
        metrics=metrics,
        tolerance=output.tolerance,
        values=output.values,
        force=True,
    )
    return metrics


def write_int8(recipe: Recipe, data: TrainingData, net: NestedModel, path: Path) -> dict[str, list[float]]:
    """Write an int8 checkpoint, calibrated with training data of epoch 0, and return its metrics.

    They are measured on the file, which is another model than the net.
    """
    output = recipe.output
    export(
        net,
        data.example,
        path,
        fixed_batch=output.fixed_batch,
        tolerance=output.tolerance,
        values=INT8.name,
        calibration=data.batches(0),
        calibration_samples=output.calibration_samples,
        calibration_method=output.calibration_method,
        activations=output.activations or None,
        keep_float=output.keep_float,
        force=True,
    )
    metrics = _measured(recipe, lambda: file_metrics(path, data.scored(), task=recipe.task))
    if metrics:
        store_metrics(path, metrics)
    return metrics


def level_figures(path: Path) -> list[dict[str, Any]]:
    """Density, FLOPs, bytes and metrics of each level of a checkpoint."""
    with Checkpoint.open(path) as checkpoint:
        return [
            {"density": level.density, "flops": level.flops, "nbytes": level.nbytes, **level.metrics}
            for level in checkpoint.levels
        ]


def chosen_metrics(recipe: Recipe) -> tuple[str, ...]:
    """Names of the metrics that are measured at each level: those that [output] names, or all of the task."""
    chosen = recipe.output.metrics
    return recipe.task.metrics if chosen is None else chosen


def _measured(recipe: Recipe, measure: Callable[[], dict[str, list[float]]]) -> dict[str, list[float]]:
    """The chosen metrics; nothing is measured where none is chosen."""
    names = chosen_metrics(recipe)
    measured = measure() if names else {}
    return {name: measured[name] for name in names}
