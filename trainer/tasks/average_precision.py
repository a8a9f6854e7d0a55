"""AveragePrecision: COCO's mAP, the mean of the precision over classes, recalls and overlaps of 0.5 to 0.95."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import TrainingError

MOST = 100
"""Detections of an image that count."""


@dataclass(frozen=True, slots=True)
class Marked:
    """Objects of an image, of the truth or found.

    boxes: (n, 4), left, top, right, bottom. classes: (n,). scores: (n,), of found ones. masks: bool (n, H, W), where
    the overlaps are those of masks.
    """

    boxes: NDArray[Any]
    classes: NDArray[Any]
    scores: NDArray[Any] | None = None
    masks: NDArray[np.bool_] | None = None


class AveragePrecision:
    """A tally of images, each a pair of the true objects and those that were found; its result is in [0, 1].

    It is computed by pycocotools. Raises TrainingError where that is not installed.
    """

    def __init__(self, overlap: str = "bbox") -> None:
        self._overlap = overlap
        self._tools = _tools()
        self._truths: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []
        self._images = 0

    def add(self, scores: Sequence[tuple[Marked, Marked]]) -> None:
        """Take the true and the found objects of further images."""
        for truth, found in scores:
            self._images += 1
            for objects, table in ((truth, self._truths), (found, self._found)):
                table += (self._row(objects, index) for index in range(len(objects.classes)))

    def result(self) -> float:
        """mAP of all images."""
        coco, evaluation = self._tools
        truth = {
            "images": [
                {"id": index + 1, "height": 0, "width": 0} for index in range(self._images)
            ],  # masks know theirs
            "categories": [{"id": int(each)} for each in sorted({row["category_id"] for row in self._truths})],
            "annotations": [{**row, "id": index + 1} for index, row in enumerate(self._truths)],
        }
        with contextlib.redirect_stdout(io.StringIO()):  # it tells of its progress
            true_objects = coco.COCO()
            true_objects.dataset = truth
            true_objects.createIndex()
            found = coco.COCO()
            found.dataset = {**truth, "annotations": [{**row, "id": i + 1} for i, row in enumerate(self._found)]}
            found.createIndex()
            run = evaluation.COCOeval(true_objects, found, self._overlap)
            run.params.maxDets = [MOST]
            run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
            run.evaluate()
            run.accumulate()
        precision = run.eval["precision"]
        return float(precision[precision >= 0].mean())  # -1 where a class has no object

    def _row(self, objects: Marked, index: int) -> dict[str, Any]:
        """The annotation of one object."""
        left, top, right, bottom = (float(each) for each in objects.boxes[index])
        sides = [right - left, bottom - top]
        row: dict[str, Any] = {
            "image_id": self._images,
            "category_id": int(objects.classes[index]) + 1,
            "bbox": [left, top, *sides],
            "area": sides[0] * sides[1],
            "iscrowd": 0,
        }
        if objects.scores is not None:
            row["score"] = float(objects.scores[index])
        if objects.masks is not None:
            from pycocotools import mask

            row["segmentation"] = mask.encode(np.asfortranarray(objects.masks[index], np.uint8))
        return row


def _tools() -> tuple[Any, Any]:
    """The modules of pycocotools that hold COCO and COCOeval."""
    try:
        from pycocotools import coco, cocoeval
    except ImportError:
        raise TrainingError(
            "mAP is computed by pycocotools, which is not installed: pip install 'nested-sparse[train]', or set "
            "[output] metrics = []"
        ) from None
    return coco, cocoeval
