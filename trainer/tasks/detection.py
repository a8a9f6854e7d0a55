"""Detection: the objects of an image, each with its box and class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..boxes import overlaps
from .average_precision import AveragePrecision, Marked
from .multibox import matches, multibox_loss
from .objects import COLUMNS, check_objects, check_output
from .task import Judged, Task

if TYPE_CHECKING:
    from nested_sparse.runtime import Detections

FOUND = 0.5
"""Least overlap with an object at which a detection is an answer to it."""
NOTHING = -1
"""Choice for an object that no detection overlaps."""


@dataclass(frozen=True, slots=True)
class Detection(Task):
    """Boxes, default boxes and logits (N, boxes, 4 + 4 + 1 + classes); objects (N, objects, 5): boxes and classes.

    Boxes are left, top, right, bottom in pixels. Rows of the class -1 are no objects. The loss is SSD's. The metric is
    COCO's mAP. An item is an object; its choice is the class of the surest detection that overlaps it by half, or -1.
    So a level disagrees where it gives an object another class than the densest level does, or does not find it. Soft
    labels are over the background and the classes of each box.
    """

    quality = "map"
    counted = "an object"

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Cross-entropy of the classes and smooth L1 of the offsets, see `multibox_loss`.

        Raises TrainingError: outputs or targets of another kind, or with values out of range, in any batch.
        """
        output = check_output(outputs, "the loss of detection")
        present = _present(output, targets, "the loss of detection")
        boxes, defaults = output[..., :4], output[..., 4:COLUMNS].detach()
        found = matches(defaults, targets[..., :4].to(defaults.dtype), present)
        return multibox_loss(boxes, defaults, output[..., COLUMNS:], targets, found)

    def judged(self, outputs: Any, targets: Any, doing: str) -> Judged:
        """True and found objects of each image, and the class that was found at each object."""
        from nested_sparse.runtime import detections  # its clients find the same objects

        output = check_output(outputs, doing)
        present = _present(output, targets, doing).cpu()
        found = detections(output.detach().float().cpu().numpy())
        pairs, choices = [], []
        for image, there, mine in zip(targets.cpu(), present, found, strict=True):
            objects = image[there].numpy()
            pairs.append((Marked(objects[:, :4], objects[:, 4]), Marked(mine.boxes, mine.classes, mine.scores)))
            choices.append(classes_at(objects[:, :4], mine))
        return Judged(pairs, torch.cat(choices) if choices else torch.zeros(0, dtype=torch.int64))

    def tally(self) -> AveragePrecision:
        """COCO's mAP of boxes."""
        return AveragePrecision()

    def logits(self, outputs: Any) -> Tensor:
        """(N, 1 + classes, boxes)."""
        return check_output(outputs, "soft labels")[..., COLUMNS:].movedim(2, 1)

    def soft_shares(self, soft_labels: Tensor) -> Tensor:
        """(N, boxes), in proportion to the teacher's probability of an object."""
        return object_shares(soft_labels)


def object_shares(soft_labels: Tensor) -> Tensor:
    """(N, boxes), in proportion to the probability of an object by logits (N, 1 + classes, boxes).

    In a plain mean nearly all would be background, and the loss small beside that of the few matched boxes.
    """
    objects = 1 - soft_labels.detach().softmax(1)[:, 0]
    return objects / objects.sum().clamp(min=torch.finfo(objects.dtype).tiny)


def classes_at(boxes: np.ndarray[Any, Any], found: Detections) -> Tensor:
    """(objects,) int64: the class of the surest detection that overlaps each box (objects, 4) by half, or -1."""
    if not len(found):
        return torch.full((len(boxes),), NOTHING)
    near = overlaps(torch.from_numpy(boxes).float(), torch.from_numpy(found.boxes)) >= FOUND
    first = near.byte().argmax(1)  # detections lie in the order of their scores
    return torch.where(near.any(1), torch.from_numpy(found.classes)[first], NOTHING)


def _present(output: Tensor, targets: Any, doing: str) -> Tensor:
    return check_objects(targets, len(output), output.shape[2] - COLUMNS - 1, doing)
