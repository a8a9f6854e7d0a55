"""Ranking: the order of a list of documents by their scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nested_sparse.errors import TrainingError

from ..checked import require_count
from .task import Judged, Task, kind

ABSENT = -1
"""Relevance of a place at which a list has no document."""
MOST_RELEVANT = 30
"""Largest relevance: its gain, 2^30 - 1, is still a number that float32 adds others to."""


@dataclass(frozen=True, slots=True)
class Ranking(Task):
    """Scores (N, documents), relevances (N, documents): 0 to 30, and -1 where a list has no document.

    The metric is NDCG: the sum of (2^relevance - 1) / log2(1 + place) over the first `top` places, as a share of the
    best order's. Lists without a relevant document are neither trained nor scored. A level disagrees with the densest
    where it puts another document first. Soft labels are over the documents of a list, so a model gives places without
    a document a score far below the others.
    """

    top: int = 10
    """Places that count."""
    counted = "a list with a relevance above 0"

    def __post_init__(self) -> None:
        """Check the field. Raises TrainingError."""
        require_count(self, "top", 1)

    @property
    def quality(self) -> str:  # type: ignore[override]
        """The metric's name, as the literature writes it."""
        return f"ndcg@{self.top}"

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Cross-entropy between the softmax of the scores and the gains as shares of their sum, mean over the lists.

        Raises TrainingError: scores or relevances of another kind, or relevances out of range, in any batch.
        It bounds NDCG (Bruch et al., ICTIR 2019, "An Analysis of the Softmax Cost Function for Learning to Rank").
        """
        scores, gains = self._lists(outputs, targets, "the loss of ranking")
        useful = gains.sum(1) > 0
        shares = gains / gains.sum(1, keepdim=True).clamp_min(1)
        each = -(shares * torch.log_softmax(scores, 1).masked_fill(shares == 0, 0)).sum(1)
        return each.sum() / useful.sum().clamp_min(1)

    def judged(self, outputs: Any, targets: Any, doing: str) -> Judged:
        """NDCG of each list, and its first document; of equal scores the earlier place is first."""
        scores, gains = self._lists(outputs, targets, doing)
        useful = gains.sum(1) > 0
        scores, gains = scores[useful], gains[useful].double()
        order = scores.argsort(dim=1, descending=True, stable=True)
        best = _discounted(gains.sort(dim=1, descending=True).values, self.top)
        return Judged(_discounted(gains.gather(1, order), self.top) / best, order[:, 0])

    def _lists(self, outputs: Any, targets: Any, doing: str) -> tuple[Tensor, Tensor]:
        """Scores, -inf where there is no document, and gains, 0 there."""
        fits = isinstance(outputs, Tensor) and outputs.ndim == 2 and isinstance(targets, Tensor)
        if not fits or targets.shape != outputs.shape:
            raise TrainingError(
                f"{doing} needs scores (N, documents) and targets that are relevances of the same shape, got "
                f"{kind(outputs)} and {kind(targets)}; nest a module whose forward returns a score for each document"
            )
        absent = targets == ABSENT
        wrong = ~(absent | ((targets >= 0) & (targets <= MOST_RELEVANT)))
        if wrong.any():  # silent otherwise: a gain below 0, or one that is infinite
            raise TrainingError(
                f"{doing}: relevances: expected 0 to {MOST_RELEVANT}, or {ABSENT} where a list has no document, got "
                f"{targets[wrong][0].item()}; give places without a document {ABSENT}, and grades from 0 to "
                f"{MOST_RELEVANT}"
            )
        gains = (torch.exp2(targets.float()) - 1).masked_fill(absent, 0)
        return outputs.masked_fill(absent, -torch.inf), gains


def _discounted(gains: Tensor, top: int) -> Tensor:
    """(N, documents) gains, the first place first, to the discounted sum of each list."""
    kept = gains[:, :top]
    places = torch.arange(kept.shape[1], device=gains.device, dtype=gains.dtype)
    return (kept / torch.log2(places + 2)).sum(1)
