"""Boxes: their overlaps, and their offsets from default boxes (SSD, arXiv:1512.02325, section 2.2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SCALES = (0.1, 0.1, 0.2, 0.2)
"""Units of the four offsets, as in SSD's code: by them offsets are about as large as the logits."""
LARGEST = math.log(16) / SCALES[2]
"""Largest offset of a size. A box is at most 16 times as wide as its default; an untrained net would else give
infinite ones."""


def decoded(offsets: Tensor, defaults: Tensor) -> Tensor:
    """(..., 4) boxes, left, top, right, bottom, from offsets and default boxes of the same shape.

    offsets: of the centre's x and y, in tenths of the default's width and height, and of the logarithms of both sizes,
    in fifths.
    """
    sizes = defaults[..., 2:] - defaults[..., :2]
    centres = (defaults[..., 2:] + defaults[..., :2]) / 2 + offsets[..., :2] * SCALES[0] * sizes
    halves = sizes * torch.exp(offsets[..., 2:].clamp(max=LARGEST) * SCALES[2]) / 2
    return torch.cat([centres - halves, centres + halves], -1)


def offsets(boxes: Tensor, defaults: Tensor) -> Tensor:
    """(..., 4) offsets of boxes from default boxes, the inverse of `decoded`. Sizes are above 0."""
    sizes = defaults[..., 2:] - defaults[..., :2]
    centres = (boxes[..., :2] + boxes[..., 2:] - defaults[..., :2] - defaults[..., 2:]) / 2
    growth = torch.log((boxes[..., 2:] - boxes[..., :2]) / sizes)
    return torch.cat([centres / sizes / SCALES[0], growth / SCALES[2]], -1)


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """(..., n, m) intersection over union of boxes (..., n, 4) and (..., m, 4)."""
    corner = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])
    opposite = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])
    shared = (opposite - corner).clamp(min=0).prod(-1)
    areas = [(each[..., 2:] - each[..., :2]).clamp(min=0).prod(-1) for each in (first, second)]
    union = areas[0][..., :, None] + areas[1][..., None, :] - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def sampled(maps: Tensor, boxes: Tensor, points: int, size: float) -> Tensor:
    """(N, C, boxes, points, points): values of maps (N, C, H, W) inside of boxes (N, boxes, 4), as RoIAlign takes them.

    A box is cut into points × points parts; each has the bilinear value at its middle (Mask R-CNN, arXiv:1703.06870,
    section 3, with one point of each part). size: height and width in pixels of the images that the maps are of.
    Outside of a map its edge goes on.
    """
    steps = (torch.arange(points, dtype=boxes.dtype, device=boxes.device) + 0.5) / points
    corner, sides = boxes[..., None, :2], boxes[..., None, 2:] - boxes[..., None, :2]
    x, y = ((corner + sides * steps[:, None]) * (2 / size) - 1).unbind(-1)  # (N, boxes, points) each
    grid = torch.stack([x[:, :, None, :].expand(-1, -1, points, -1), y[:, :, :, None].expand(-1, -1, -1, points)], -1)
    values = F.grid_sample(maps, grid.flatten(1, 2), padding_mode="border", align_corners=False)
    result: Tensor = values.reshape(*values.shape[:2], boxes.shape[1], points, points)
    return result
