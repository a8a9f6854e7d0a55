"""Multibox: the loss of boxes and classes against the objects of each image (SSD, arXiv:1512.02325, section 2.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..boxes import offsets, overlaps

MATCHED = 0.5
"""Least overlap of a default box with the object that it is to find."""
NEGATIVES = 3
"""Boxes of the background that are trained for each matched box, those with the largest loss."""


def matches(defaults: Tensor, objects: Tensor, present: Tensor, *, best: bool = True) -> Tensor:
    """(N, boxes) index of the object that each default box is to find, -1 for none.

    defaults: (N, boxes, 4). objects: (N, objects, 4). present: bool (N, objects), the rows that are objects. A box
    is to find the object that it overlaps most, from an overlap of 0.5 on. With `best` each object also has the
    default box that overlaps it most, however little; of two objects with the same such box the later has it.
    """
    shared = overlaps(defaults, objects).masked_fill(~present[:, None, :], -1)  # (N, boxes, objects)
    most, found = shared.max(2)
    found = found.masked_fill(most < MATCHED, -1)
    if best:
        for each in range(objects.shape[1]):  # in turn, as of equal indices scatter takes any
            box = shared[:, :, each].argmax(1, keepdim=True)
            own = torch.where(present[:, each, None], each, found.gather(1, box))
            found = found.scatter(1, box, own)
    return found


def of_matched(values: Tensor, found: Tensor) -> Tensor:
    """(N, boxes, ...) the values (N, objects, ...) of the object that each box is to find; any where it is -1."""
    index = found.clamp(min=0)
    return values.gather(
        1, index.reshape(*index.shape, *(1,) * (values.ndim - 2)).expand(*index.shape, *values.shape[2:])
    )


def multibox_loss(boxes: Tensor, defaults: Tensor, logits: Tensor, objects: Tensor, found: Tensor) -> Tensor:
    """Cross-entropy of the classes, and smooth L1 of the offsets of matched boxes, a sum over the number of matched.

    boxes, defaults: (N, boxes, 4). logits: (N, boxes, 1 + classes), the background first. objects: (N, objects, 5),
    boxes and classes. found: (N, boxes), from `matches`. Of the boxes of the background those with the largest loss
    count, three for each matched one of their image, and three in an image without any.
    """
    matched = found >= 0
    mine = of_matched(objects, found)
    targets = torch.where(matched, mine[..., 4].long() + 1, 0)
    entropy = F.cross_entropy(logits.movedim(2, 1).float(), targets, reduction="none")
    kept = matched | _hardest(entropy.detach().masked_fill(matched, -1), NEGATIVES * matched.sum(1).clamp(min=1))
    wanted = offsets(mine[..., :4].to(boxes.dtype)[matched], defaults[matched])
    apart = F.smooth_l1_loss(offsets(boxes[matched], defaults[matched]), wanted, reduction="sum")
    return ((entropy * kept).sum() + apart) / matched.sum().clamp(min=1)


def _hardest(losses: Tensor, counts: Tensor) -> Tensor:
    """Bool (N, boxes): the `counts` largest losses of each row, without those below 0."""
    places = losses.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (places < counts[:, None]) & (losses >= 0)
