"""LevelBatchNorm: normalisation belongs to the level."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class LevelBatchNorm(nn.Module):
    """One batch normalisation per level: its own affine and its own statistics (slimmable networks, arXiv:1812.08928).

    norms: one copy of the original module per level. level: which of them `forward` runs.
    """

    def __init__(self, norm: _BatchNorm, level_count: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(copy.deepcopy(norm) for _ in range(level_count))
        self.level = level_count - 1

    def forward(self, x: Tensor) -> Tensor:
        """`x` normalised by the current level's statistics."""
        normalised: Tensor = self.norms[self.level](x)
        return normalised
