"""Phases: the order of a transposed convolution's columns in a file.

Output position p takes input i by tap k where p + pad = stride · i + dilation · k. The positions of one remainder
modulo the stride, a phase, take the same taps, so a phase is a convolution with some of the columns (FORMAT.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def column_order(
    channels: int, kernel: Sequence[int], strides: Sequence[int], before: Sequence[int], dilations: Sequence[int]
) -> NDArray[np.int64]:
    """(K,) for each column of the file, its place among (channel, tap), K = channels · taps, the last axis fastest.

    kernel, strides, before, dilations: one size per axis; before: the padding in front. Columns go by phase, the last
    axis fastest, then by channel, then by tap, from the last to the first of each axis.
    """
    channel, *taps = np.indices((channels, *kernel)).reshape(1 + len(kernel), -1)
    phase = np.zeros_like(channel)
    for tap, stride, pad, dilation in zip(taps, strides, before, dilations, strict=True):
        phase = phase * stride + (tap * dilation - pad) % stride
    order: NDArray[np.int64] = np.lexsort([*(-tap for tap in reversed(taps)), channel, phase])
    return order
