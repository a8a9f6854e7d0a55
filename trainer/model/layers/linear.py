"""NestedLinear: a linear layer with nested weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nested_sparse.errors import ExportError
from nested_sparse.layouts import Layout

from .layer import NestedLayer


class NestedLinear(NestedLayer):
    """A linear layer with nested weights (O, K)."""

    op = "linear"
    row_step = 16

    def __init__(self, linear: nn.Linear, *, layout: Layout, level_count: int) -> None:
        super().__init__(linear, layout=layout, level_count=level_count)
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., O), at the current level."""
        return F.linear(*self.operands(x), self.level_bias())

    def output_shape(self, x: Tensor) -> tuple[int, ...]:
        """(..., O)."""
        if x.dim() < 1 or x.shape[-1] != self.in_features:
            raise ExportError(f"{self.name!r}: expected an input [..., {self.in_features}], got {list(x.shape)}")
        return (*x.shape[:-1], self.out_features)

    def positions(self, x: Tensor, most: int, generator: torch.Generator) -> Tensor:
        """(M,) rows of `x` as (rows, K)."""
        rows = x.numel() // x.shape[-1]
        return torch.randperm(rows, generator=generator)[:most].sort().values

    def columns(self, x: Tensor, positions: Tensor) -> Tensor:
        """(1, M, K) rows of `x`."""
        return x.reshape(-1, x.shape[-1])[positions.to(x.device)][None]
