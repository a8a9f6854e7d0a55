"""Channel pruning: whole rows (output channels) and whole input channels are kept or dropped, level by level.

A level keeps the weights where a kept row meets a kept input channel, with all its taps. Rows come and go in steps of
the blocks in which the kernels read them, so that, sorted by the level that first keeps them, they fill whole blocks:
what is dropped costs no multiplication. Which layers feed which is not looked at: a channel may be dropped in one layer
and still be read by the next.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .errors import PatternError
from .excerpt import excerpt
from .mask import NEVER, group_count
from .weight import NestedWeight

ROW_STEPS = {"conv": 4, "linear": 16}
"""Rows that come and go together: the block rows that suit the operator's kernels."""

TOLERANCE = 0.02
"""Part of a density by which the product of the kept shares may miss it, for the sake of balance."""


def channel_first_level(
    scores: NDArray[np.float64], taps: int, densities: Sequence[float], row_step: int
) -> NDArray[np.uint8]:
    """(O, K) first level of every weight; column k belongs to input channel k // taps.

    scores: (O, K), of the weights: their magnitudes. Rows and channels are ranked by their sums (L1). At each density,
    the shares of rows and of channels are those nearest to each other whose product is within TOLERANCE of it, or else
    the nearest to it that there is.
    """
    rows, columns = scores.shape
    channels = columns // taps
    sums = scores.reshape(rows, channels, taps).sum(axis=2)
    row_rank = np.argsort(np.argsort(-sums.sum(axis=1), kind="stable"))
    channel_rank = np.argsort(np.argsort(-sums.sum(axis=0), kind="stable"))
    row_level, channel_level = np.full(rows, NEVER, np.uint8), np.full(channels, NEVER, np.uint8)
    kept = (min(row_step, rows), 1)
    for level, density in enumerate(densities):
        kept = _kept(rows, channels, row_step, density, kept)
        row_level[(row_rank < kept[0]) & (row_level == NEVER)] = level
        channel_level[(channel_rank < kept[1]) & (channel_level == NEVER)] = level
    return np.asarray(np.maximum(row_level[:, None], np.repeat(channel_level, taps)[None, :]))


def _kept(rows: int, channels: int, step: int, density: float, least: tuple[int, int]) -> tuple[int, int]:
    """(rows, channels) kept at `density`, each at least what the level below keeps."""
    row_counts = np.minimum(np.arange(1, group_count(rows, step) + 1) * step, rows)
    pairs = {
        (int(row), int(np.clip(channel, least[1], channels)))
        for row in row_counts[row_counts >= least[0]]
        for channel in (int(density * rows / row * channels), int(density * rows / row * channels) + 1)
    }
    missed = {pair: abs(pair[0] / rows * pair[1] / channels - density) for pair in pairs}
    allowed = max(min(missed.values()), TOLERANCE * density)
    near = sorted(pair for pair, error in missed.items() if error <= allowed)
    return min(near, key=lambda pair: abs(np.log(pair[0] / rows * channels / pair[1])))


def in_full_blocks(weight: NestedWeight, row_step: int) -> NestedWeight:
    """A channel-pruned `weight` of single rows as blocks of `row_step` rows, rows sorted by their first level.

    Raises PatternError where rows that would share a block differ in what they keep.
    """
    order = np.argsort(weight.first_level.min(axis=1), kind="stable").astype(np.int32)
    groups = group_count(weight.rows, row_step)
    padded = np.concatenate([order, np.repeat(order[-1:], groups * row_step - weight.rows)])
    blocks = weight.first_level[padded].reshape(groups, row_step, weight.columns)
    if (blocks != blocks[:, :1]).any():
        raise PatternError(
            f"'{excerpt(weight.name)}': rows do not come in blocks of {row_step} that keep the same columns; choose "
            "masks with nested_sparse.channel.channel_first_level"
        )
    return NestedWeight(weight.name, weight.values, np.ascontiguousarray(blocks[:, 0]), row_step, order)
