"""Detectors: default boxes, proposals against a loop, and images of another size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nested_sparse.trainer.boxes import overlaps
from nested_sparse.trainer.zoo import SSD, MaskRCNN
from nested_sparse.trainer.zoo.mask_rcnn import SHARED, TIE


def test_boxes_of_an_untrained_net_lie_at_their_default_boxes() -> None:
    """These stand around the places of both maps, and each has the sizes that were asked for."""
    net = SSD(width=4, size=32, classes=3, sizes=(8.0, 18.0, 32.0)).eval()
    (output,) = net(torch.rand(1, 1, 32, 32)).detach()
    boxes, defaults = output[:, :4], output[:, 4:8]
    assert output.shape == (4 * (4 * 4 + 2 * 2), 4 + 4 + 1 + 3)
    assert (boxes - defaults).abs().max() < 2
    sides, middles = defaults[:, 2:] - defaults[:, :2], (defaults[:, 2:] + defaults[:, :2]) / 2
    first = torch.tensor([[8.0, 8.0], [8 * 2**0.5, 8 / 2**0.5], [8 / 2**0.5, 8 * 2**0.5], [12.0, 12.0]])
    torch.testing.assert_close(sides[:4], first)
    torch.testing.assert_close(sides[-1], torch.tensor([24.0, 24.0]))
    torch.testing.assert_close(middles[0], torch.tensor([4.0, 4.0]))
    torch.testing.assert_close(middles[4], torch.tensor([12.0, 4.0]))
    torch.testing.assert_close(middles[-1], torch.tensor([24.0, 24.0]))


def looped(boxes: Tensor, scores: list[float], count: int) -> list[int]:
    """The anchors that are proposed, in their own order: those which no surer one overlaps, then the others."""
    shared = overlaps(boxes, boxes)
    order = sorted(range(len(scores)), key=lambda each: -scores[each])[:64]
    hidden = {
        each for each in order if any(scores[other] > scores[each] and shared[each, other] > SHARED for other in order)
    }
    return sorted(
        [*(each for each in order if each not in hidden), *(each for each in order if each in hidden)][:count]
    )


def test_proposals_are_those_of_a_loop() -> None:
    """Of two images in one batch; where few are left, those that gave way come next."""
    generator = torch.Generator().manual_seed(0)
    net = MaskRCNN(width=4, size=32, proposals=9, hidden=8)
    corner = torch.rand(2, 80, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + 8 + 4 * torch.rand(2, 80, 2, generator=generator)], 2).clamp(0, 32)
    boxes[1] = boxes[1, :1] + 0.2 * torch.rand(80, 4, generator=generator)
    boxes = boxes.clamp(0, 32)
    logits = torch.randn(2, 80, 2, generator=generator)
    proposed = net._proposals(torch.cat([boxes, boxes, logits], 2))
    for image in range(2):
        scores = [sure - none - TIE * place for place, (none, sure) in enumerate(logits[image].tolist())]
        expected = looped(boxes[image], scores, 9)
        torch.testing.assert_close(proposed[image], boxes[image, expected])


def test_equal_scores_are_told_apart() -> None:
    """The earlier anchors are proposed, whatever rounding adds to the scores."""
    net = MaskRCNN(width=4, size=64, proposals=5, hidden=8)
    corner = torch.arange(40.0)[:, None].expand(40, 2)
    boxes = torch.cat([corner, corner + 8], 1)
    noise = 1e-6 * torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    (proposed,) = net._proposals(torch.cat([boxes, boxes, noise], 1)[None])
    torch.testing.assert_close(proposed, boxes[:5])


@pytest.mark.parametrize("net", [SSD(width=4, size=32), MaskRCNN(width=4, size=32, hidden=8)])
def test_images_of_another_size_are_told(net: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match=r"expected images of 32 × 32 pixels, got \(32, 40\); set \[model\] size"):
        net(torch.zeros(1, 1, 32, 40))
