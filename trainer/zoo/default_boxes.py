"""Default boxes: boxes at the places of a map, from which a detector's own are offsets (SSD, arXiv:1512.02325)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

RATIOS = (1.0, 2.0, 0.5)
"""Widths of default boxes against their heights; one more square box is larger."""
BOXES = len(RATIOS) + 1
"""Default boxes of a place."""


def default_boxes(size: int, places: int, sides: Sequence[float]) -> Tensor:
    """(places × places × BOXES, 4) boxes around the centres of a map's places: those of RATIOS, and a larger square.

    size: height and width of the image in pixels. places: of the map. sides: of the square, and of the next map's
    square; the larger one is their geometric mean (section 2.2).
    """
    centres = (torch.arange(places) + 0.5) * (size / places)
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    shapes = [(sides[0] * math.sqrt(each), sides[0] / math.sqrt(each)) for each in RATIOS]
    shapes.append((math.sqrt(sides[0] * sides[1]),) * 2)
    halves = torch.tensor(shapes) / 2
    middles = torch.stack([x, y], -1).reshape(-1, 1, 2)
    return torch.cat([middles - halves, middles + halves], -1).reshape(-1, 4)


def box_head(inputs: int, values: int) -> nn.Conv2d:
    """A 3 × 3 convolution to `values` numbers for each default box of a place; the first four are to be offsets.

    Its first answers are near 0, so that the first boxes are the default ones.
    """
    head = nn.Conv2d(inputs, BOXES * values, 3, 1, 1)
    nn.init.normal_(head.weight, std=0.01)
    if head.bias is not None:
        nn.init.zeros_(head.bias)
    return head


def by_box(values: Tensor) -> Tensor:
    """The answer (N, BOXES × values, H, W) of a `box_head` as (N, H × W × BOXES, values)."""
    samples, channels = values.shape[:2]
    return values.permute(0, 2, 3, 1).reshape(samples, -1, channels // BOXES)
