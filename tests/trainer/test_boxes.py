"""Boxes: overlaps against counted pixels, and offsets that lead back to their boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nested_sparse.trainer.boxes import decoded, offsets, overlaps


def boxes(seed: int, count: int) -> Tensor:
    """Boxes of whole pixels in an image of 20 × 20."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(12, (count, 2), generator=generator)
    return torch.cat([corner, corner + torch.randint(1, 8, (count, 2), generator=generator)], 1)


def painted(box: Tensor) -> Tensor:
    """The pixels of one box."""
    image = torch.zeros(20, 20, dtype=torch.bool)
    left, top, right, bottom = box.tolist()
    image[top:bottom, left:right] = True
    return image


def test_overlaps_are_those_of_counted_pixels() -> None:
    first, second = boxes(0, 6), boxes(1, 9)
    counted = torch.zeros(6, 9)
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            both, any_ = painted(one) & painted(other), painted(one) | painted(other)
            counted[i, j] = both.sum() / any_.sum()
    torch.testing.assert_close(overlaps(first.float(), second.float()), counted)
    assert counted.gt(0).any()
    assert overlaps(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


def test_offsets_lead_back_to_their_boxes() -> None:
    """And offsets of 0 to the default box; a size stays finite for any offset."""
    wanted, defaults = boxes(2, 30).float(), boxes(3, 30).float()
    torch.testing.assert_close(decoded(offsets(wanted, defaults), defaults), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(decoded(torch.zeros(30, 4), defaults), defaults)
    (large,) = decoded(torch.full((1, 4), 1e9), torch.tensor([[0.0, 0.0, 2.0, 2.0]])).isfinite()
    assert large.all()


def test_offsets_are_those_of_the_paper() -> None:
    """Of a default of 10 × 20 around (5, 10): a box around (7, 10), twice as wide and as high."""
    defaults, box = torch.tensor([[0.0, 0.0, 10.0, 20.0]]), torch.tensor([[-3.0, 0.0, 17.0, 20.0]])
    expected = [2 / 10 / 0.1, 0.0, math.log(2) / 0.2, 0.0]
    torch.testing.assert_close(offsets(box, defaults)[0], torch.tensor(expected))
