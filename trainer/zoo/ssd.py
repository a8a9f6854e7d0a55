"""SSD: a detector of one stage, boxes and classes from two maps of a residual network (arXiv:1512.02325)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..boxes import decoded
from .backbone import Backbone
from .default_boxes import box_head, by_box, default_boxes
from .residual import ResidualBlock, initialised


class SSD(Backbone):
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
        super().__init__(channels, width, size)
        self.stage4 = ResidualBlock(4 * width, 8 * width, 2)
        initialised(self)
        self.heads = nn.ModuleList(box_head(each * width, 5 + classes) for each in (4, 8))
        maps = [default_boxes(size, -(-size // stride), sizes[i : i + 2]) for i, stride in enumerate((8, 16))]
        self.defaults: Tensor
        self.register_buffer("defaults", torch.cat(maps)[None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, size, size) to boxes, default boxes, logits (N, boxes, 4 + 4 + 1 + classes).

        Boxes are left, top, right, bottom in pixels. The first logit is the background's.
        """
        _, near = self.maps(x)
        maps = (near, self.stage4(near))
        found = torch.cat([by_box(head(each)) for head, each in zip(self.heads, maps, strict=True)], 1)
        defaults = self.defaults.expand(x.shape[0], -1, -1)
        return torch.cat([decoded(found[..., :4], defaults), defaults, found[..., 4:]], 2)
