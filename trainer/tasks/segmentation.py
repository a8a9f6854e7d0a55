"""Segmentation: a class for each point of a cloud, or for each pixel of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nested_sparse.errors import TrainingError

from ..checked import is_count, require
from .classes import OfClasses, check_indices, check_range
from .hits import choices
from .task import IGNORED, Judged, kind


@dataclass(frozen=True, slots=True)
class Segmentation(OfClasses):
    """Logits (N, classes, ...), class indices (N, ...), cross-entropy, mean IoU. Targets of -100 are left out.

    The metric is the mean over the samples of the mean IoU of a sample's classes; the IoU of a class is the number of
    positions at which targets and answers have it, as a share of those at which one of them has. With `kinds` the
    classes of a sample are all those of the kinds that its targets are of; a class that neither has counts as 1, as in
    arXiv:1612.00593, section 5.1. Without `kinds` they are the classes that its targets or its answers have. A sample
    without a target does not count. Disagreement is the share of the positions, of all samples, whose class is not the
    densest level's.
    """

    kinds: tuple[int, ...] = ()
    """Number of classes of each kind of object, one kind after the other: of [2, 4], classes 0 and 1 are a kind."""
    quality = "mean_iou"
    counted = f"a sample with a target other than {IGNORED}"

    def __post_init__(self) -> None:
        """Check the field. Raises TrainingError."""
        require(self, "kinds", all(is_count(each, 1) for each in self.kinds), "whole numbers >= 1")

    def check(self, outputs: Any, targets: Any) -> None:
        """Check a batch."""
        self._chosen(outputs, targets, "the loss of segmentation")

    def judged(self, outputs: Any, targets: Any, doing: str) -> Judged:
        """Mean IoU of each sample that has a target, and the chosen class at each target, of all samples."""
        chosen, targets = self._chosen(outputs, targets, doing).flatten(1), targets.flatten(1).long()
        counts = targets != IGNORED
        chosen = chosen.masked_fill(~counts, IGNORED)
        true, taken, both = (
            _counted(each, outputs.shape[1]) for each in (targets, chosen, targets.where(chosen == targets, IGNORED))
        )
        either = true + taken - both
        own = self._of_kinds(true) if self.kinds else either > 0
        share = torch.where(either > 0, both / either.clamp_min(1), 1.0)
        scores = (share * own).sum(1) / own.sum(1)
        return Judged(scores[counts.any(1)], chosen[counts])

    def classes_second(self, outputs: Any) -> Any:
        """The outputs."""
        return outputs

    def _chosen(self, outputs: Any, targets: Any, doing: str) -> Tensor:
        """The class of the largest logit at each position. Raises TrainingError unless outputs and targets fit."""
        if isinstance(outputs, Tensor) and outputs.ndim < 3:
            raise TrainingError(
                f"{doing} needs logits (N, classes, points), or of more dimensions, got {kind(outputs)}; for one class "
                'of a whole sample set [task] name = "classification"'
            )
        chosen = choices(outputs, targets, doing)
        check_indices(targets, doing)
        check_range(outputs, targets, doing)
        classes = outputs.shape[1]
        if self.kinds and sum(self.kinds) != classes:
            raise TrainingError(
                f"{doing}: kinds: expected numbers whose sum is {classes}, the classes of the logits, got "
                f"{list(self.kinds)}; correct [task] kinds, or leave it out"
            )
        return chosen

    def _of_kinds(self, true: Tensor) -> Tensor:
        """Whether each class is of a kind that is there, bool (N, classes). true: number of targets of each class."""
        there = torch.stack([each.sum(1) > 0 for each in torch.split(true, list(self.kinds), 1)], 1)
        return there.repeat_interleave(torch.tensor(self.kinds, device=true.device), 1)


def _counted(classes: Tensor, count: int) -> Tensor:
    """How often each class is in each row of `classes` (N, P), which are -100 or below `count`: float64 (N, count)."""
    numbers = torch.zeros(len(classes), count + 1, dtype=torch.float64, device=classes.device)
    row = classes.where(classes != IGNORED, count)
    return numbers.scatter_add_(1, row, torch.ones_like(row, dtype=torch.float64))[:, :count]
