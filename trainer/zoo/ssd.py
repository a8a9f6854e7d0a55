"""SSD: a detector of one stage, boxes and classes from two maps of a residual network (arXiv:1512.02325)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..boxes import decoded
from .residual import ResidualBlock, initialised

RATIOS = (1.0, 2.0, 0.5)
"""Widths of default boxes against their heights; one more square box is larger."""


class SSD(nn.Module):
    """A stem, four residual stages, and 3 × 3 convolutions for boxes and classes on the last two maps.

    The paper's network stands on VGG-16 and reads six maps of images of 300 × 300; these images are small. size: height
    and width of an image in pixels. width: channels of the first stage; the others have 2, 4 and 8 times as many.
    sizes: sides of the default boxes of either map in pixels, and, as the last, of the larger square of the second. At
    width 16 and 64 × 64: 0.41 million weights and 38 MFLOP an image (a multiply-add counts as 2).
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        classes: int = 10,
        width: int = 16,
        size: int = 64,
        sizes: tuple[float, float, float] = (16.0, 24.0, 36.0),
    ) -> None:
        super().__init__()
        self.size = size
        self.stem = nn.Conv2d(channels, width, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.stage1 = ResidualBlock(width, width)
        self.stage2 = ResidualBlock(width, 2 * width, 2)
        self.stage3 = ResidualBlock(2 * width, 4 * width, 2)
        self.stage4 = ResidualBlock(4 * width, 8 * width, 2)
        initialised(self)
        boxes = len(RATIOS) + 1
        self.heads = nn.ModuleList(_head(each * width, boxes * (5 + classes)) for each in (4, 8))
        self.values = 5 + classes
        maps = [_default_boxes(size, -(-size // stride), sizes[i : i + 2]) for i, stride in enumerate((8, 16))]
        self.defaults: Tensor
        self.register_buffer("defaults", torch.cat(maps)[None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, size, size) to boxes, default boxes, logits (N, boxes, 4 + 4 + 1 + classes).

        Boxes are left, top, right, bottom in pixels. The first logit is the background's.
        """
        if x.shape[2:] != (self.size, self.size):
            raise ValueError(
                f"SSD: expected images of {self.size} × {self.size} pixels, got {tuple(x.shape[2:])}; set [model] size"
            )
        near = self.stage3(self.stage2(self.stage1(self.relu(self.bn(self.stem(x))))))
        maps = (near, self.stage4(near))
        found = torch.cat([_by_box(head(each), self.values) for head, each in zip(self.heads, maps, strict=True)], 1)
        defaults = self.defaults.expand(x.shape[0], -1, -1)
        return torch.cat([decoded(found[..., :4], defaults), defaults, found[..., 4:]], 2)


def _head(inputs: int, outputs: int) -> nn.Conv2d:
    """A convolution whose first answers are near 0, so that the first boxes are the default ones."""
    head = nn.Conv2d(inputs, outputs, 3, 1, 1)
    nn.init.normal_(head.weight, std=0.01)
    if head.bias is not None:
        nn.init.zeros_(head.bias)
    return head


def _by_box(values: Tensor, each: int) -> Tensor:
    """(N, boxes of a place × each, H, W) to (N, H × W × boxes of a place, each)."""
    return values.permute(0, 2, 3, 1).reshape(values.shape[0], -1, each)


def _default_boxes(size: int, places: int, sides: Sequence[float]) -> Tensor:
    """(places × places × 4, 4) boxes around the centres of a map's places: those of RATIOS, and a larger square.

    sides: of the square, and of the next map's square; the larger one is their geometric mean (section 2.2).
    """
    centres = (torch.arange(places) + 0.5) * (size / places)
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    shapes = [(sides[0] * math.sqrt(each), sides[0] / math.sqrt(each)) for each in RATIOS]
    shapes.append((math.sqrt(sides[0] * sides[1]),) * 2)
    halves = torch.tensor(shapes) / 2
    middles = torch.stack([x, y], -1).reshape(-1, 1, 2)
    return torch.cat([middles - halves, middles + halves], -1).reshape(-1, 4)
