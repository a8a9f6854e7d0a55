"""OneDnn: the library of torch's convolutions on CPUs, which is left out where it fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

LEAST_CHANNELS = 8
"""Of an image that has fewer, oneDNN's kernels for AVX2 write past their memory."""


@contextmanager
def sound_gradients(net: nn.Module) -> Iterator[None]:
    """A context in which torch computes convolutions without oneDNN if `net` has one on which it fails.

    The gradient of the weights of a convolution of one pixel with a stride, over images of few channels that lie in
    memory with their channels last, is wrong, or the process crashes, on processors without AVX-512
    (https://github.com/uxlfoundation/oneDNN/issues/6035; torch 2.13 has it). It is left out on all processors, though
    runs with AVX-512 never showed it: what it does there is not known, and such nets are small.
    """
    if not any(map(_fails, net.modules())):
        yield
        return
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def _fails(module: nn.Module) -> bool:
    """Whether it is a convolution of images, ours or torch's, with such a gradient."""
    weight, stride = getattr(module, "weight", None), getattr(module, "stride", None)
    transposed = getattr(module, "transposed", False) or getattr(module, "op", "") == "conv_transpose"
    if not isinstance(weight, torch.Tensor) or weight.dim() != 4 or transposed:
        return False
    strides = stride if isinstance(stride, (tuple, list)) else (stride,)
    one_pixel = weight.shape[2:] == (1, 1) and any(isinstance(each, int) and each > 1 for each in strides)
    return one_pixel and weight.shape[1] < LEAST_CHANNELS
