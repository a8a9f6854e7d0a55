"""Masks: the pixels of found objects, from a mask network's output."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import InputError

from .detections import Detections

MAX_SIDE = 1 << 14
"""Largest height and width of an image."""


def object_masks(found: Detections, masks: NDArray[np.floating], height: int, width: int) -> NDArray[np.bool_]:
    """(n, height, width): the pixels of each of the n found objects of an image.

    found: from `detections` of the same image. masks: (boxes, h, w), that image's part of the output of masks: logits
    inside of each box. A pixel is the object's where its middle lies in the box and the bilinear value of the
    probabilities is a half or more. Of a box with a value that is not finite there is no pixel.

    Raises InputError: masks of another shape or kind, or for fewer boxes; a size that is not 1 to 16384.
    """
    fits = isinstance(masks, np.ndarray) and masks.ndim == 3 and masks.dtype.kind == "f" and min(masks.shape[1:]) > 0
    if not fits or (len(found) and found.places.max() >= len(masks)):
        got = f"{masks.dtype} {masks.shape}" if isinstance(masks, np.ndarray) else type(masks).__name__
        raise InputError(
            f"object_masks needs the masks of one image, an array of floats (boxes, h, w) with those of every found "
            f"object, got {got}; give output[i] for the objects of image i"
        )
    for name, value in (("height", height), ("width", width)):
        if not 1 <= value <= MAX_SIDE:
            raise InputError(f"object_masks: {name}: expected 1 to {MAX_SIDE} pixels, got {value!r}")
    result = np.zeros((len(found), height, width), bool)
    for pixels, box, place in zip(result, found.boxes, found.places, strict=True):
        if not np.isfinite(box).all():
            continue
        with np.errstate(over="ignore"):
            chances = 1 / (1 + np.exp(-masks[place].astype(np.float32)))
        _paste(pixels, box, chances)
    return result


def _paste(pixels: NDArray[np.bool_], box: NDArray[np.float32], chances: NDArray[np.float32]) -> None:
    """Mark the object's pixels in an image (height, width)."""
    (rows, v), (columns, u) = (
        _inside(box[axis], box[axis + 2], pixels.shape[1 - axis], chances.shape[1 - axis]) for axis in (1, 0)
    )
    if not len(rows) or not len(columns):
        return
    top, left = int(rows[0]), int(columns[0])
    values = _between(_between(chances, v).T, u).T
    pixels[top : top + len(rows), left : left + len(columns)] = values >= 0.5


def _inside(low: np.float32, high: np.float32, pixels: int, parts: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The middles of the pixels of a line from `low` to `high`, and their places in a mask of `parts` pixels."""
    middles = np.arange(pixels) + 0.5
    middles = middles[(middles >= low) & (middles < high)]
    return middles, (middles - low) / (high - low) * parts - 0.5


def _between(values: NDArray[np.floating], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, columns): the rows of values (rows, columns) at n places between them, 0 at the first; its edges go on."""
    held = np.clip(places, 0, len(values) - 1)
    below = np.floor(held).astype(int)
    share = (held - below)[:, None]
    result: NDArray[np.float64] = values[below] * (1 - share) + values[np.minimum(below + 1, len(values) - 1)] * share
    return result
