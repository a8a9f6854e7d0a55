"""ReRanker: scores of a list of documents, which attend to each other (SetRank, arXiv:1912.05891)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .transformer import TransformerBlock

CLOSED = -1e9
"""Added to the attention's weight of a place without a document."""
LAST = -50.0
"""Score of a place without a document: its share in a softmax of scores is nothing, and float32 keeps the others'."""


class ReRanker(nn.Module):
    """Scores of the documents of a list from their features: self-attention over the list, no positions.

    heads: attention heads, a divisor of `width`. depth: blocks.
    """

    def __init__(
        self, *, features: int = 136, width: int = 256, depth: int = 4, heads: int = 8, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.first = nn.Linear(features, width)
        blocks = (TransformerBlock(width, heads, act=nn.ReLU, dropout=dropout) for _ in range(depth))
        self.blocks = nn.ModuleList(blocks)
        self.score = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))

    def forward(self, documents: Tensor, present: Tensor | None = None) -> Tensor:
        """(N, documents, features) to scores (N, documents).

        present: (N, documents), above 0 where a list has a document; None where all lists are full. A place without one
        has the score -50, and the other documents do not see it.
        """
        there = None if present is None else present > 0
        closed = None if there is None else torch.where(there, 0.0, CLOSED)[:, None, None, :]
        x = self.first(documents)
        for block in self.blocks:
            x = block(x, closed)
        scores: Tensor = self.score(x).squeeze(-1)
        return scores if there is None else torch.where(there, scores, LAST)
