"""OwnSparsity: the zeros that the weights of a file have already, and the pattern that keeps them as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..model.layers import KINDS
from ..post_training.levels import zeros_in
from .onnx_network import OnnxNetwork

BLOCK_ROWS = (16, 8, 4, 2)
"""Rows of the blocks that are looked for, the most first."""
WHOLE = 0.999
"""Share of the zeros that must lie in whole blocks, as a few weights of a kept block may be zero by chance."""


@dataclass(frozen=True, slots=True)
class OwnSparsity:
    """density: kept / all weights of the layers that can be nested. layers: number of those with zeros, and of all.

    pattern: the one with the largest blocks that keeps no zero, but for a thousandth.
    """

    density: float
    layers: tuple[int, int]
    pattern: str

    @property
    def text(self) -> str:
        """The same in words."""
        sparse, all_ = self.layers
        return f"{sparse} of its {all_} layers have zeros, {self.density:.2%} of the weights are none ({self.pattern})"


def own_sparsity(network: OnnxNetwork) -> OwnSparsity | None:
    """The zeros of the network's layers; None where no layer is sparse already."""
    weights = [_rows_first(module) for each in network.plan.found for module in each.modules.values()]
    sparse = [weight for weight in weights if zeros_in(weight) is not None]
    if not sparse:
        return None
    kept = sum(
        int((zeros if (zeros := zeros_in(weight)) is not None else weight == weight).sum()) for weight in weights
    )
    rows = next((rows for rows in BLOCK_ROWS if _in_blocks(sparse, rows)), 0)
    return OwnSparsity(
        kept / sum(weight.numel() for weight in weights),
        (len(sparse), len(weights)),
        f"block{rows}x1" if rows else "unstructured",
    )


def _rows_first(module: nn.Module) -> Tensor:
    """The weight as (O, K)."""
    weight: Tensor = module.weight.detach()  # type: ignore[operator]
    return KINDS[type(module)].turned(weight).flatten(1)


def _in_blocks(weights: Sequence[Tensor], rows: int) -> bool:
    """Whether the zeros of `weights` lie in blocks of so many rows of one column."""
    outside = total = 0
    for weight in weights:
        zeros = weight == 0
        padded = torch.cat([zeros, zeros.new_ones(-len(zeros) % rows, zeros.shape[1])])
        whole = padded.reshape(-1, rows, zeros.shape[1]).all(dim=1).repeat_interleave(rows, dim=0)[: len(zeros)]
        total += int(zeros.sum())
        outside += int((zeros & ~whole).sum())
    return outside <= (1 - WHOLE) * total
