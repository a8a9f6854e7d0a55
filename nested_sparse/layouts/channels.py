"""Channels: whole rows (output channels) and whole input channels are kept or dropped.

A level keeps the weights where a kept row meets a kept input channel, with all taps of that channel. Rows are kept or
dropped in steps, which are the rows of the blocks that the kernels read. A checkpoint holds the rows in order of the
level that first keeps them, so that they fill whole blocks and dropped weights cost no multiplication.
Here each layer is chosen by itself: the next layer may still read a channel that this layer drops. Where layers share
channels, nested_sparse.coupled chooses for all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import PatternError
from ..excerpt import excerpt
from ..mask import NEVER, group_count
from .base import Layout
from .blocks import Blocks

TOLERANCE = 0.02
"""Share of a density by which the product of the kept shares may miss it, so that both can be nearly equal."""


@dataclass(frozen=True, slots=True)
class Channels(Blocks):
    """Whole channels of a layer, its rows kept or dropped `row_step` at a time.

    While levels are chosen, cells are single weights. A checkpoint holds blocks of `row_step` rows (`stored`).
    """

    excludable: ClassVar[bool] = False
    whole_channels: ClassVar[bool] = True

    block_rows: int = field(default=1, init=False)
    row_step: int = field(default=1)

    @property
    def name(self) -> str:
        """channel."""
        return "channel"

    @property
    def label(self) -> str:
        """channel."""
        return self.name

    @classmethod
    def every(cls) -> Sequence[Layout]:
        """The only one; `fitted` sets its step."""
        return (Channels(),)

    def first_level(self, scores: NDArray[np.float64], counts: Sequence[int], taps: int) -> NDArray[np.uint8]:
        """Rows and channels of the largest sums."""
        return channel_first_level(scores, taps, [count / scores.size for count in counts], self.row_step)

    def fitted(self, rows: int, groups: int, row_step: int) -> Layout:
        """The same with the step that suits the kernels."""
        return Channels(row_step)

    def stored(
        self, first_level: NDArray[np.uint8], permutation: NDArray[np.int32] | None, where: str
    ) -> tuple[Layout, NDArray[np.uint8], NDArray[np.int32] | None]:
        """Blocks of `row_step` rows, rows sorted by the level that first keeps them.

        Raises PatternError where rows that would share a block do not keep the same columns.
        """
        order = np.argsort(first_level.min(axis=1), kind="stable").astype(np.int32)
        rows, columns = first_level.shape
        groups = group_count(rows, self.row_step)
        padded = np.concatenate([order, np.repeat(order[-1:], groups * self.row_step - rows)])
        blocks = first_level[padded].reshape(groups, self.row_step, columns)
        if (blocks != blocks[:, :1]).any():
            raise PatternError(
                f"'{excerpt(where)}': rows do not come in blocks of {self.row_step} that keep the same columns; choose "
                "masks with nested_sparse.layouts.channels.channel_first_level"
            )
        return Blocks(self.row_step), np.ascontiguousarray(blocks[:, 0]), order

    def stored_in(self, block_rows: int) -> Layout:
        """Blocks of as many rows as the metadata says."""
        return Blocks(block_rows)


def channel_first_level(
    scores: NDArray[np.float64], taps: int, densities: Sequence[float], row_step: int
) -> NDArray[np.uint8]:
    """(O, K) first level of every weight; column k belongs to input channel k // taps.

    scores: (O, K) magnitudes of the weights. Rows and channels are ranked by their sums (L1).
    densities: kept / all weights at each level. The shares of rows and of channels are the pair nearest to each other
        whose product is within TOLERANCE of the density, or else the pair whose product is nearest to it.
    row_step: rows that are kept or dropped together.
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
    """(rows, channels) kept at `density`, neither less than the level below keeps."""
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
