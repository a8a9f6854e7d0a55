"""MaskRCNN: a detector of two stages with a mask for each object (arXiv:1703.06870)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..boxes import decoded, overlaps, sampled
from .backbone import Backbone
from .default_boxes import box_head, by_box, default_boxes
from .residual import initialised

CANDIDATES = 64
"""Boxes of an image, those with the largest scores, among which proposals are chosen."""
SHARED = 0.6
"""Overlap from which a candidate gives way to a surer one."""
TIE = 1e-4
"""Taken from a score for each earlier anchor. Of equal scores, as over an even background, torch and ONNX Runtime would
choose others."""
HIDDEN = 100.0
"""Taken from the score of a candidate that gives way. It is proposed only where too few others are left,
in the order of its score, for which a larger number would leave no digits."""
POINTS = 7
"""Height and width of the map of a proposal; a mask has twice as many pixels in each direction."""


class MaskRCNN(Backbone):
    """A residual network, proposals, and for each of them a class, a box and a mask.

    The paper suppresses proposals one after another; here a candidate gives way to any surer one that it overlaps, as
    YOLACT's Fast NMS does (arXiv:1904.02689, section 3.3), so that every shape is fixed. The map of a proposal has one
    point for each part. The mask is that of the refined box, and there is one for all classes, which costs little
    (section 4.2). width: channels of the first stage. size: height and width of an image in pixels. sizes: sides of the
    squares among the default boxes. proposals: of each image. hidden: width of the layer behind a proposal's map. At
    width 16 and 64 × 64: 0.32 million weights and 52 MFLOP an image (a multiply-add counts as 2).
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        classes: int = 10,
        width: int = 16,
        size: int = 64,
        sizes: tuple[float, float] = (20.0, 36.0),
        proposals: int = 12,
        hidden: int = 128,
    ) -> None:
        super().__init__(channels, width, size)
        self.proposals = proposals
        inner = 2 * width
        self.lateral = nn.Conv2d(4 * width, inner, 1, bias=False)
        self.merged = _norm_relu(inner, nn.Conv2d(inner, inner, 3, 1, 1, bias=False))
        self.masks = nn.Sequential(
            _norm_relu(inner, nn.Conv2d(inner, inner, 3, 1, 1, bias=False)),
            _norm_relu(inner, nn.ConvTranspose2d(inner, inner, 2, 2, bias=False)),
            nn.Conv2d(inner, 1, 1),
        )
        initialised(self)
        self.near = nn.Sequential(nn.Linear(inner * POINTS**2, hidden), nn.ReLU())
        self.fc = nn.Linear(hidden, 5 + classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        self.rpn = box_head(4 * width, 6)
        self.defaults: Tensor
        self.register_buffer("defaults", default_boxes(size, -(-size // 8), sizes)[None], persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, channels, size, size) to anchors, objects and masks.

        Anchors: (N, boxes, 4 + 4 + 2). Objects: (N, proposals, 4 + 4 + 1 + classes). Their columns are boxes, left,
        top, right, bottom in pixels; the default boxes, or the proposals; and logits, the background's first. Masks:
        (N, proposals, 14, 14), logits inside of the objects' boxes.
        """
        fine, coarse = self.maps(x)
        found = by_box(self.rpn(coarse))
        defaults = self.defaults.expand(x.shape[0], -1, -1)
        anchors = torch.cat([decoded(found[..., :4], defaults), defaults, found[..., 4:]], 2)
        proposed = self._proposals(anchors.detach())
        wide = F.interpolate(self.lateral(coarse), scale_factor=2.0, mode="nearest")
        merged = self.merged(fine + wide)
        answers = self.fc(self.near(sampled(merged, proposed, POINTS, self.size).transpose(1, 2).flatten(2)))
        boxes = decoded(answers[..., :4], proposed)
        inside = sampled(merged, boxes.detach(), POINTS, self.size).transpose(1, 2)
        masks = self.masks(inside.flatten(0, 1)).reshape(-1, self.proposals, 2 * POINTS, 2 * POINTS)
        return anchors, torch.cat([boxes, proposed, answers[..., 4:]], 2), masks

    def _proposals(self, anchors: Tensor) -> Tensor:
        """(N, proposals, 4) boxes, in the order of the anchors, which rounding does not change."""
        order = torch.arange(anchors.shape[1], dtype=anchors.dtype, device=anchors.device)
        scores = anchors[..., 9] - anchors[..., 8] - TIE * order
        scores, places = scores.topk(min(CANDIDATES, scores.shape[1]), dim=1)
        boxes = anchors[..., :4].gather(1, places[..., None].expand(-1, -1, 4)).clamp(0, self.size)
        surer = scores[:, None, :] > scores[:, :, None]
        hidden = ((overlaps(boxes, boxes) > SHARED) & surer).any(2)
        kept = torch.where(hidden, scores - HIDDEN, scores).topk(self.proposals, dim=1).indices
        places = places.gather(1, kept).argsort(dim=1)
        return boxes.gather(1, kept.gather(1, places)[..., None].expand(-1, -1, 4))


def _norm_relu(channels: int, layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU())
