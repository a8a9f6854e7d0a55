"""Masks of found objects: against a loop over the pixels, and arrays that are none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nested_sparse.errors import InputError
from nested_sparse.runtime import Detections, object_masks

HEIGHT, WIDTH = 18, 25


def found(boxes: np.ndarray, places: list[int]) -> Detections:
    """Objects with these boxes, from these rows."""
    count = len(places)
    scores = np.linspace(1, 0.5, count, dtype=np.float32)
    return Detections(boxes.astype(np.float32).reshape(-1, 4), np.zeros(count, int), scores, np.array(places, int))


def looped(box: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """The mask of one object, pixel by pixel."""
    left, top, right, bottom = map(float, box)
    rows, columns = logits.shape
    chances = [[1 / (1 + math.exp(-float(each))) for each in row] for row in logits]
    image = np.zeros((HEIGHT, WIDTH), bool)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            if not (left <= x + 0.5 < right and top <= y + 0.5 < bottom):
                continue
            u = min(max((x + 0.5 - left) / (right - left) * columns - 0.5, 0), columns - 1)
            v = min(max((y + 0.5 - top) / (bottom - top) * rows - 0.5, 0), rows - 1)
            i, j = int(v), int(u)
            k, m = min(i + 1, rows - 1), min(j + 1, columns - 1)
            upper = chances[i][j] * (1 - (u - j)) + chances[i][m] * (u - j)
            lower = chances[k][j] * (1 - (u - j)) + chances[k][m] * (u - j)
            image[y, x] = upper * (1 - (v - i)) + lower * (v - i) >= 0.5
    return image


def test_masks_are_those_of_a_loop() -> None:
    """Of boxes in the image, across its edges, larger than it, outside of it, and smaller than a pixel."""
    rng = np.random.default_rng(0)
    inside = [[2.2, 3.7, 15.1, 12.4], [-6.3, -2, 7.9, 9.1], [-5, -5, 40, 40]]
    boxes = np.array([*inside, [30, 2, 40, 9], [4.1, 4.1, 4.3, 4.4], [5, 5, 5, 9]])
    masks = 3 * rng.standard_normal((9, 5, 7)).astype(np.float32)
    places = [3, 0, 8, 1, 2, 4]
    got = object_masks(found(boxes, places), masks, HEIGHT, WIDTH)
    assert (got.shape, got.dtype) == ((6, HEIGHT, WIDTH), np.dtype(bool))
    for mine, box, place in zip(got, boxes.astype(np.float32), places, strict=True):
        np.testing.assert_array_equal(mine, looped(box, masks[place]))
    assert got[:3].any((1, 2)).all()
    assert not got[3:].any()


def test_sure_masks_and_boxes_that_are_not_finite() -> None:
    """A logit of any size is a pixel or none; a box with NaN has none. No object, no mask."""
    masks = np.array([[[1e30, -1e30]]], np.float32)
    boxes = np.array([[0, 0, 10, 10], [0, np.nan, 10, 10], [0, 0, np.inf, 10]])
    got = object_masks(found(boxes, [0, 0, 0]), masks, 10, 10)
    assert got[0, :, :5].all()
    assert not got[0, :, 6:].any()
    assert not got[1:].any()
    assert object_masks(found(np.zeros((0, 4)), []), masks, 3, 4).shape == (0, 3, 4)


@pytest.mark.parametrize(
    ("masks", "size", "said"),
    [
        (np.zeros((2, 3, 3), np.float32), (4, 4), r"masks of one image, .* got float32 \(2, 3, 3\); give output"),
        (np.zeros((1, 3, 3, 3), np.float32), (4, 4), r"got float32 \(1, 3, 3, 3\)"),
        (np.zeros((3, 3, 3), np.int64), (4, 4), "got int64"),
        (np.zeros((3, 0, 3), np.float32), (4, 4), r"\(3, 0, 3\)"),
        ([[1.0]], (4, 4), "got list"),
        (np.zeros((3, 3, 3), np.float32), (0, 4), "height: expected 1 to 16384 pixels, got 0"),
        (np.zeros((3, 3, 3), np.float32), (4, 1 << 40), "width: expected"),
    ],
)
def test_other_arrays_and_sizes_are_refused(masks: Any, size: tuple[int, int], said: str) -> None:
    with pytest.raises(InputError, match=f"object_masks.*{said}"):
        object_masks(found(np.array([[0, 0, 2, 2]]), [2]), masks, *size)
