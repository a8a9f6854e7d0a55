"""Layer reference: the arithmetic of layers in numpy and float64, written from the definitions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def logistic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x))."""
    result: NDArray[np.float64] = 1 / (1 + np.exp(-x))
    return result


ACTIVATIONS: Sequence[Callable[[NDArray[np.float64]], NDArray[np.float64]]] = (
    lambda x: x,
    logistic,
    lambda x: x * logistic(x),
    lambda x: x * logistic(1.702 * x),
    lambda x: x * np.vectorize(lambda value: math.erfc(-value / math.sqrt(2)) / 2, otypes=[float])(x),
    lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    lambda x: np.minimum(np.maximum(x + 3, 0), 6) / 6,
    lambda x: x * np.minimum(np.maximum(x + 3, 0), 6) / 6,
)
"""The functions of the attribute `activation_function`, by its number (FORMAT.md)."""


def correlate(
    x: NDArray[np.float64], weight: NDArray[np.float64], window: Mapping[str, list[int]]
) -> NDArray[np.float64]:
    """(N, O, H', W') convolution, as neural networks mean it, of images x (N, C, H, W) by weight (O, C x KH x KW).

    Images with slices, (N, C, D, H, W), by a window of three sizes in the same way.
    """
    weight = weight.reshape(len(weight), x.shape[1], *window["kernel_shape"])
    taps = windows(x, window)
    axes = list(range(1, weight.ndim))
    of_taps = [1, *range(x.ndim, taps.ndim)]
    return np.moveaxis(np.tensordot(weight, taps, axes=(axes, of_taps)), 0, 1)


def windows(x: NDArray[np.float64], window: Mapping[str, list[int]], outside: float = 0.0) -> NDArray[np.float64]:
    """(N, C, H', W', KH, KW) what each window sees of images x (N, C, H, W); with slices as above.

    outside: the value around an image.
    """
    kernel, strides, dilations = (window[name] for name in ("kernel_shape", "strides", "dilations"))
    axes = len(kernel)
    sides = list(zip(window["pads"][:axes], window["pads"][axes:], strict=True))
    padded = np.pad(x, [(0, 0), (0, 0), *sides], constant_values=outside)
    spans = [(size - 1) * gap + 1 for size, gap in zip(kernel, dilations, strict=True)]
    spanned = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, 2 + axes)))
    steps = [slice(None, None, step) for step in (*strides, *dilations)]
    return spanned[(slice(None), slice(None), *steps)]


def transposed(
    x: NDArray[np.float64], weight: NDArray[np.float64], window: Mapping[str, list[int]]
) -> NDArray[np.float64]:
    """The transposed convolution of images x by weight (O, K) whose columns are in the order of FORMAT.md.

    Every input pixel is added, times each weight, to the output that the weight's tap sends it to.
    """
    kernel, strides, dilations, more = (
        window[name] for name in ("kernel_shape", "strides", "dilations", "output_padding")
    )
    lines = x.ndim == 3
    x = x[:, :, None] if lines else x
    axes = range(len(kernel))
    before, after = window["pads"][: len(kernel)], window["pads"][len(kernel) :]
    full = [strides[a] * (x.shape[2 + a] - 1) + dilations[a] * (kernel[a] - 1) + 1 + more[a] for a in axes]
    y = np.zeros((len(x), len(weight), *full))
    column = 0
    for phase in np.ndindex(*strides):
        taps = [
            [k for k in reversed(range(kernel[a])) if (k * dilations[a] - before[a] - phase[a]) % strides[a] == 0]
            for a in axes
        ]
        for channel in range(x.shape[1]):
            for tap in itertools.product(*taps):
                at = [slice(tap[a] * dilations[a], None, strides[a]) for a in axes]
                ends = [slice(0, size) for size in x.shape[2:]]
                part = y[(slice(None), slice(None), *at)][(slice(None), slice(None), *ends)]
                part += weight[:, column].reshape(-1, *[1] * len(kernel)) * x[:, channel : channel + 1]
                column += 1
    assert column == weight.shape[1]
    y = y[(slice(None), slice(None), *(slice(before[a], full[a] - after[a]) for a in axes))]
    return y[:, :, 0] if lines else y
