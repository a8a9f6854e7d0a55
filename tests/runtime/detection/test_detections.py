"""Detections: the suppression against a plain loop, the order, and outputs that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nested_sparse.errors import InputError
from nested_sparse.runtime import detections


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two boxes, in one's own arithmetic."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return float(width * height / (sum(areas) - width * height))


def looped(rows: np.ndarray, min_score: float, max_overlap: float, most: int) -> list[tuple[int, int]]:
    """(row, class) of the objects of one image, surest first: every candidate against all that are kept."""
    candidates = []
    for place, row in enumerate(rows):
        shares = np.exp(row[8:].astype(np.float64)) / np.exp(row[8:].astype(np.float64)).sum()
        candidates += [(-share, place, number) for number, share in enumerate(shares[1:]) if share >= min_score]
    kept: list[tuple[int, int]] = []
    for _, place, number in sorted(candidates):
        rivals = (other for other, its in kept if its == number)
        if all(overlap(rows[place], rows[other]) <= max_overlap for other in rivals):
            kept.append((place, number))
    return kept[:most]


def output(seed: int, boxes: int = 40, classes: int = 3) -> np.ndarray:
    """Two images of random boxes, of which many overlap, some of no size."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 30, (2, boxes, 2))
    sizes = rng.uniform(8, 25, (2, boxes, 2)) * (rng.random((2, boxes, 1)) > 0.1)
    logits = 2 * rng.standard_normal((2, boxes, 1 + classes))
    return np.concatenate([corners, corners + sizes, corners, corners + 9, logits], 2).astype(np.float32)


@pytest.mark.parametrize(("min_score", "max_overlap", "most"), [(0.05, 0.5, 100), (0.3, 0.2, 100), (0.0, 0.0, 7)])
def test_the_objects_are_those_of_a_loop(min_score: float, max_overlap: float, most: int) -> None:
    """Of each image, its places, classes, boxes and scores."""
    for seed in range(5):
        rows = output(seed)
        found = detections(rows, min_score=min_score, max_overlap=max_overlap, most=most)
        for image, mine in zip(rows, found, strict=True):
            expected = looped(image, min_score, max_overlap, most)
            assert list(zip(mine.places.tolist(), mine.classes.tolist(), strict=True)) == expected
            np.testing.assert_array_equal(mine.boxes, image[mine.places, :4])
            logits = image[mine.places, 8:].astype(np.float64)
            shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            np.testing.assert_allclose(mine.scores, shares[np.arange(len(mine)), 1 + mine.classes], rtol=1e-5)


def row(box: tuple[float, ...], *logits: float) -> list[float]:
    """A row of an output, whose default box is any."""
    return [*box, 0, 0, 1, 1, *logits]


def test_an_object_is_found_once_for_each_of_its_classes() -> None:
    """Two near boxes of one class are one object; the same box in another class is another; the background is none."""
    near, nearly, far = (0, 0, 10, 10), (0, 1, 10, 10), (40, 40, 50, 60)
    rows = [row(near, 0, 5, 4), row(nearly, 0, 6, -9), row(far, 9, 0, 0), row(far, 0, 0, 9)]
    (found,) = detections(np.array([rows], np.float32), min_score=0.1)
    assert list(zip(found.places.tolist(), found.classes.tolist(), strict=True)) == [(3, 1), (1, 0), (0, 1)]
    assert found.boxes[0].tolist() == list(far)


def test_rows_that_are_not_finite_are_left_out() -> None:
    """Their neighbours stay, and nothing warns."""
    rows = [row((0, 0, 9, 9), np.nan, 5), row((0, 0, np.inf, 9), 0, 5), row((0, 0, 9, 9), 0, 2)]
    (found,) = detections(np.array([rows], np.float32))
    assert found.places.tolist() == [2]


def test_large_logits_and_no_images() -> None:
    (found,) = detections(np.array([[row((0, 0, 9, 9), -3e38, 3e38)]], np.float32))
    assert found.scores.tolist() == [1.0]
    assert detections(np.zeros((0, 4, 10), np.float32)) == []


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        (np.zeros((4, 10), np.float32), {}, r"array of floats \(N, boxes, 9 \+ classes\), got float32 \(4, 10\)"),
        (np.zeros((1, 4, 9), np.float32), {}, r"got float32 \(1, 4, 9\)"),
        (np.zeros((1, 4, 10), np.int64), {}, "got int64"),
        ([[1.0]], {}, "got list"),
        (np.zeros((1, 4, 10), np.float32), {"min_score": 1.5}, "min_score: expected a number from 0 to 1, got 1.5"),
        (np.zeros((1, 4, 10), np.float32), {"max_overlap": np.nan}, "max_overlap: expected .* got nan"),
        (np.zeros((1, 4, 10), np.float32), {"most": -1}, "most: expected .* at least 0, got -1"),
    ],
)
def test_other_arrays_and_settings_are_refused(given: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        detections(given, **options)
