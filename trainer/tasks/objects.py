"""Objects: targets that are boxes with classes, and the outputs of a detector. Checks in words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nested_sparse.errors import TrainingError

from .task import kind

ABSENT = -1
"""Class, and sides, of a row without an object."""
COLUMNS = 8
"""Columns of an output before the logits: the box, and its default box."""


def check_output(output: Any, doing: str) -> Tensor:
    """Return `output`. Raises TrainingError unless it is a float tensor (N, boxes, 4 + 4 + 1 + classes)."""
    fits = isinstance(output, Tensor) and output.ndim == 3 and output.is_floating_point()
    if not fits or output.shape[2] < COLUMNS + 2:
        raise TrainingError(
            f"{doing} needs an output (N, boxes, 4 + 4 + 1 + classes): boxes, default boxes, logits of the background "
            f"and of the classes; got {kind(output)}; nest a module whose forward returns these, as the model ssd does"
        )
    return output  # type: ignore[no-any-return]


def check_objects(objects: Any, samples: int, classes: int, doing: str) -> Tensor:
    """Bool (N, objects): the rows that are objects.

    objects: (N, objects, 5), left, top, right, bottom in pixels, and the class. samples, classes: those of the output.
    Raises TrainingError: another shape, a class that the model does not have, or a box without an inside.
    """
    if not isinstance(objects, Tensor) or objects.ndim != 3 or objects.shape[::2] != (samples, 5):
        raise TrainingError(
            f"{doing} needs targets (N, objects, 5): left, top, right, bottom in pixels, and the class, for each of "
            f"{samples} images, got {kind(objects)}; rows without an object have the class {ABSENT}"
        )
    numbers = objects[..., 4]
    present = numbers != ABSENT
    wrong = numbers[present & ~((numbers >= 0) & (numbers < classes) & (numbers == numbers.floor()))]
    if wrong.numel():
        raise TrainingError(
            f"{doing}: targets: expected classes from 0 to {classes - 1}, as the model has {classes} of them beside "
            f"the background, or {ABSENT} in a row without an object, got {wrong[0].item():g}; correct the targets, or "
            "give the model more classes ([model] classes)"
        )
    sides = objects[..., 2:4] - objects[..., :2]
    empty = objects[present & ~((sides > 0) & torch.isfinite(sides)).all(-1)]
    if len(empty):
        raise TrainingError(
            f"{doing}: targets: expected boxes as left, top, right, bottom with left < right and top < bottom, got "
            f"{empty[0, :4].tolist()}; boxes of a corner and sizes give right = left + width"
        )
    return present
