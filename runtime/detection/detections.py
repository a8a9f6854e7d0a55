"""Detections: the objects that a detector found in an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import InputError

BOX, DEFAULT, LOGITS = slice(0, 4), slice(4, 8), slice(8, None)
"""Columns of a detector's output: the box, the default box that it belongs to, the logits, of the background first."""
CONSIDERED = 400
"""Most candidates of an image; SSD (arXiv:1512.02325, section 3.1) keeps as many of a class."""


@dataclass(frozen=True, slots=True)
class Detections:
    """The objects of one image, the surest first.

    boxes: float32 (n, 4), left, top, right, bottom in pixels. classes: int64 (n,), from 0, without the background.
    scores: float32 (n,), probabilities. places: int64 (n,), the row of the output that each came from.
    """

    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    scores: NDArray[np.float32]
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)


def detections(
    output: NDArray[np.floating], *, min_score: float = 0.05, max_overlap: float = 0.5, most: int = 100
) -> list[Detections]:
    """The objects of each image of a batch, from a detector's output.

    output: (N, boxes, 4 + 4 + 1 + classes): the boxes, left, top, right, bottom in pixels; the default boxes; and the
    logits of the background and of each class. min_score: least probability. max_overlap: of boxes of one class that
    overlap by more than this share of their union, only the surest stays (non-maximum suppression). most: objects of
    an image, at most; before the suppression an image has 400 candidates, the surest ones. Boxes with a value that is
    not finite are left out. Of equal scores the earlier row is first, and in a row the earlier class.

    Raises InputError: an output of another shape or kind, or a setting out of range.
    """
    if not isinstance(output, np.ndarray) or output.ndim != 3 or output.shape[2] < 10 or output.dtype.kind != "f":
        got = f"{output.dtype} {output.shape}" if isinstance(output, np.ndarray) else type(output).__name__
        raise InputError(
            "detections needs a detector's output, an array of floats (N, boxes, 9 + classes), got "
            f"{got}; give the output of one model, as Session.run or a client returns it"
        )
    for name, value in (("min_score", min_score), ("max_overlap", max_overlap)):
        if not 0 <= value <= 1:
            raise InputError(f"detections: {name}: expected a number from 0 to 1, got {value!r}")
    if most < 0:
        raise InputError(f"detections: most: expected a whole number of at least 0, got {most!r}")
    return [_of_image(each.astype(np.float32, copy=False), min_score, max_overlap, most) for each in output]


def _of_image(rows: NDArray[np.float32], min_score: float, max_overlap: float, most: int) -> Detections:
    """The objects in the rows (boxes, 9 + classes) of one image."""
    finite = np.asarray(np.isfinite(rows).all(axis=1, keepdims=True))
    scores = _probabilities(np.where(finite, rows[:, LOGITS], 0))[:, 1:]
    places, classes = np.nonzero((scores >= min_score) & finite)
    order = np.argsort(-scores[places, classes], kind="stable")[:CONSIDERED]
    places, classes = places[order], classes[order]
    boxes = rows[places, BOX]
    kept = _kept(overlaps(boxes, boxes), classes, max_overlap)[:most]
    places, classes = places[kept], classes[kept]
    return Detections(boxes[kept], classes.astype(np.int64), scores[places, classes], places.astype(np.int64))


def _probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The softmax of (boxes, 1 + classes)."""
    wide = logits.astype(np.float64)  # differences of float32 may be infinite
    shares = np.exp(wide - wide.max(1, keepdims=True))
    result: NDArray[np.float32] = (shares / shares.sum(1, keepdims=True)).astype(np.float32)
    return result


def _kept(shared: NDArray[np.float32], classes: NDArray[np.int64], max_overlap: float) -> list[int]:
    """Candidates that no surer one of their class suppresses. shared: (n, n) overlaps, the surest candidate first."""
    clash = (shared > max_overlap) & (classes[:, None] == classes)
    alive, kept = np.ones(len(classes), bool), []
    for index in range(len(classes)):
        if alive[index]:
            kept.append(index)
            alive &= ~clash[index]
    return kept


def overlaps(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, m) intersection over union of boxes (n, 4) and (m, 4); 0 where a box is empty."""
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    opposite = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(opposite - corner, 0, None).prod(2)
    areas = [np.clip(each[:, 2:] - each[:, :2], 0, None).prod(1) for each in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    result: NDArray[np.float32] = shared / np.where(union > 0, union, 1)
    return result
