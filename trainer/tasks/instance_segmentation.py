"""Instance segmentation: the objects of an image, each with its box, class and mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nested_sparse.errors import TrainingError

from ..boxes import sampled
from .average_precision import AveragePrecision, Marked
from .detection import classes_at, object_shares
from .multibox import matches, multibox_loss
from .objects import COLUMNS, check_objects, check_output
from .task import Judged, Task, kind


@dataclass(frozen=True, slots=True)
class InstanceSegmentation(Task):
    """Outputs and targets of an instance segmentation in two stages, as of the network `mask_rcnn`.

    Outputs: anchors (N, boxes, 4 + 4 + 2), objects (N, proposals, 4 + 4 + 1 + classes), both as of `Detection`, anchors
    with one class for all objects and objects with proposals in place of default boxes; masks (N, proposals, h, h),
    logits inside of the objects' boxes. Targets: objects (N, objects, 5) as of `Detection`, and owners, whole numbers
    (N, H, H), k + 1 at the pixels of row k.

    The metric is COCO's mAP of masks. Items and choices are those of `Detection`. Soft labels are those of the anchors:
    proposals are not the same ones at another level.
    """

    quality = "mask_map"
    counted = "an object"

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The sum of the losses of anchors, objects and masks (Mask R-CNN, arXiv:1703.06870, section 3).

        Of the masks it is the cross-entropy, mean over the pixels of proposals that overlap an object by half.

        Raises TrainingError: outputs or targets of another kind, or with values out of range, in any batch.
        """
        doing = "the loss of instance segmentation"
        anchors, objects, masks = _outputs(outputs, doing)
        table, owners, present = _targets(objects, targets, doing)
        total = torch.zeros((), device=objects.device)
        for output, best in ((anchors, True), (objects, False)):
            boxes, defaults = output[..., :4], output[..., 4:COLUMNS].detach()
            found = matches(defaults, table[..., :4].to(defaults.dtype), present, best=best)
            alike = table if output is objects else torch.cat([table[..., :4], torch.zeros_like(table[..., 4:])], -1)
            total = total + multibox_loss(boxes, defaults, output[..., COLUMNS:], alike, found)
        return total + mask_loss(masks, objects[..., :4].detach(), owners, found)

    def judged(self, outputs: Any, targets: Any, doing: str) -> Judged:
        """True and found objects of each image with their masks, and the class that was found at each object."""
        from nested_sparse.runtime import detections, object_masks  # its clients find the same objects

        _, objects, masks = _outputs(outputs, doing)
        table, owners, present = (each.cpu() for each in _targets(objects, targets, doing))
        logits = masks.detach().float().cpu().numpy()
        pairs, choices = [], []
        for image, mine in enumerate(detections(objects.detach().float().cpu().numpy())):
            there = present[image]
            boxes, classes = table[image, there, :4].numpy(), table[image, there, 4].numpy()
            own = owners[image] == there.nonzero()[:, :, None] + 1
            pixels = object_masks(mine, logits[image], *owners.shape[1:])
            truth = Marked(boxes, classes, masks=own.numpy())
            pairs.append((truth, Marked(mine.boxes, mine.classes, mine.scores, pixels)))
            choices.append(classes_at(boxes, mine))
        return Judged(pairs, torch.cat(choices) if choices else torch.zeros(0, dtype=torch.int64))

    def tally(self) -> AveragePrecision:
        """COCO's mAP of masks."""
        return AveragePrecision("segm")

    def logits(self, outputs: Any) -> Tensor:
        """(N, 2, boxes), those of the anchors."""
        return _outputs(outputs, "soft labels")[0][..., COLUMNS:].movedim(2, 1)

    def soft_shares(self, soft_labels: Tensor) -> Tensor:
        """(N, boxes), in proportion to the teacher's probability of an object."""
        return object_shares(soft_labels)


def mask_loss(masks: Tensor, boxes: Tensor, owners: Tensor, found: Tensor) -> Tensor:
    """Cross-entropy of masks, mean over the pixels of matched boxes; 0 where none is matched.

    masks: (N, boxes, h, h) logits inside of the boxes (N, boxes, 4). owners: (N, H, H), k + 1 at the pixels of object
    k. found: (N, boxes), the object of each box, -1 for none. A mask's pixel is wanted where half of it or more, by
    bilinear sampling, is the object's.
    """
    images, places = (found >= 0).nonzero(as_tuple=True)
    if not len(images):
        return masks.sum() * 0
    own = (owners[images] == found[images, places][:, None, None] + 1).to(boxes.dtype)
    inside = sampled(own[:, None], boxes[images, places][:, None], masks.shape[-1], owners.shape[-1])[:, 0, 0]
    return F.binary_cross_entropy_with_logits(masks[images, places].float(), (inside >= 0.5).float())


def _outputs(outputs: Any, doing: str) -> tuple[Tensor, Tensor, Tensor]:
    """Anchors, objects and masks. Raises TrainingError for outputs of another kind."""
    if not isinstance(outputs, tuple | list) or len(outputs) != 3:
        raise TrainingError(
            f"{doing} needs three outputs, anchors, objects and masks, got {kind(outputs)}; nest a module whose "
            "forward returns these, as the model mask_rcnn does"
        )
    anchors, objects = (check_output(each, doing) for each in outputs[:2])
    masks = outputs[2]
    fits = isinstance(masks, Tensor) and masks.ndim == 4 and masks.is_floating_point()
    if not fits or masks.shape[:2] != objects.shape[:2] or masks.shape[2] != masks.shape[3]:
        raise TrainingError(
            f"{doing} needs masks (N, proposals, h, h) of the {objects.shape[1]} proposals of each of {len(objects)} "
            f"images, got {kind(masks)}"
        )
    if anchors.shape[2] != COLUMNS + 2:
        raise TrainingError(
            f"{doing} needs anchors with {COLUMNS + 2} columns, box, default box, and the logits of background and "
            f"object, got {anchors.shape[2]} columns"
        )
    return anchors, objects, masks


def _targets(objects: Tensor, targets: Any, doing: str) -> tuple[Tensor, Tensor, Tensor]:
    """Objects, owners, and the rows that are objects. Raises TrainingError for targets of another kind."""
    if not isinstance(targets, tuple | list) or len(targets) != 2:
        raise TrainingError(
            f"{doing} needs two targets, objects and owners, got {kind(targets)}; of the data scenes they come with "
            "[data] masks = true"
        )
    table, owners = targets
    present = check_objects(table, len(objects), objects.shape[2] - COLUMNS - 1, doing)
    fits = isinstance(owners, Tensor) and owners.ndim == 3 and not owners.is_floating_point()
    if not fits or len(owners) != len(objects) or owners.shape[1] != owners.shape[2]:
        raise TrainingError(
            f"{doing} needs owners, whole numbers (N, H, H) for {len(objects)} images, k + 1 at the pixels of object "
            f"k, got {kind(owners)}"
        )
    return table, owners, present
