"""Boxes: overlaps against counted pixels, and offsets that lead back to their boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nested_sparse.trainer.boxes import decoded, offsets, overlaps, sampled


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


def bilinear(image: Tensor, x: float, y: float) -> float:
    """The value at a point in pixels, whose middles are at halves; the edge goes on."""
    height, width = image.shape
    x, y = min(max(x - 0.5, 0), width - 1), min(max(y - 0.5, 0), height - 1)
    i, j = int(y), int(x)
    k, m = min(i + 1, height - 1), min(j + 1, width - 1)
    upper = image[i, j] * (1 - (x - j)) + image[i, m] * (x - j)
    lower = image[k, j] * (1 - (x - j)) + image[k, m] * (x - j)
    return float(upper * (1 - (y - i)) + lower * (y - i))


def test_samples_of_boxes_are_those_of_a_loop() -> None:
    """At the middles of the parts of each box, in maps of a half of the image's size; across edges, too."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 10, 10, generator=generator)
    wanted = torch.tensor(
        [[[2.0, 3, 11, 19], [0, 0, 20, 20], [5, 5, 5, 5]], [[-6, 4, 3, 9], [1.5, 2.5, 7, 8], [18, 12, 26, 22]]]
    )
    got = sampled(maps, wanted, 3, 20)
    assert got.shape == (2, 3, 3, 3, 3)
    for image in range(2):
        for place, (left, top, right, bottom) in enumerate(wanted[image].tolist()):
            for row in range(3):
                for column in range(3):
                    x, y = left + (right - left) * (column + 0.5) / 3, top + (bottom - top) * (row + 0.5) / 3
                    expected = [bilinear(each, x / 2, y / 2) for each in maps[image]]
                    torch.testing.assert_close(got[image, :, place, row, column], torch.tensor(expected))
