"""Int8 rounding: the values of weights and activations in an int8 file, for training (fake quantisation).

The forward pass has the file's values, bit for bit. The backward pass treats rounding as the identity for values inside
the range, and as a constant for values outside (straight-through, arXiv:1712.05877).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nested_sparse.quantization import LEAST_SCALE
from nested_sparse.value_type import INT8

LARGEST_WEIGHT = int(INT8.largest)
LARGEST_ACTIVATION = 255
MOMENTUM = 0.1
"""Share of a batch's own range in the running range, as that of a batch norm's statistics."""


class _Rounded(torch.autograd.Function):
    """(clamp(round(x / scale) + zero, least, largest) - zero) · scale; the gradient passes where nothing is clamped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, least: int, largest: int) -> Tensor:
        steps = torch.round(x / scale) + zero
        held = steps.clamp(least, largest)
        ctx.save_for_backward(held == steps)
        return (held - zero) * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (inside,) = ctx.saved_tensors
        return torch.where(inside, gradients[0], 0.0), None, None, None, None


def row_scales(weight: Tensor) -> Tensor:
    """(O, 1, ...) scale of each row, from the `weight` (O, ...) of the densest level: its largest magnitude / 127.

    1 where that is no normal number.
    """
    largest = weight.detach().abs().flatten(1).amax(dim=1).reshape(-1, *[1] * (weight.ndim - 1))
    scales = largest / LARGEST_WEIGHT
    return torch.where(scales >= LEAST_SCALE, scales, 1.0)


def rounded_weight(weight: Tensor, scales: Tensor) -> Tensor:
    """The weight as a file with these row scales holds it: whole numbers from -127 to 127, times the scale."""
    return _apply(weight, scales, scales.new_zeros(()), -LARGEST_WEIGHT, LARGEST_WEIGHT)


def scale_and_zero(ranges: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point (...) of bytes for the least and largest values (..., 2), both float32.

    A range always holds 0, so that zero has a byte of its own. The scale is 1 where it is no normal number.
    """
    least, largest = ranges[..., 0].clamp(max=0), ranges[..., 1].clamp(min=0)
    scales = (largest - least) / LARGEST_ACTIVATION
    scales = torch.where((scales >= LEAST_SCALE) & scales.isfinite(), scales, 1.0)
    return scales, torch.round(-least / scales).clamp(0, LARGEST_ACTIVATION)


def rounded_activation(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """`x` as an image of bytes with this scale and zero point holds it."""
    return _apply(x, scale, zero, 0, LARGEST_ACTIVATION)


def with_batch(ranges: Tensor, x: Tensor) -> Tensor:
    """The running range (2,): least and largest value, after a batch with the values `x`.

    NaN stands for a range before the first batch.
    """
    seen = torch.stack(torch.aminmax(x.detach().to(ranges.dtype)))
    return torch.where(ranges.isnan(), seen, torch.lerp(ranges, seen, MOMENTUM))


def _apply(x: Tensor, *arguments: Tensor | int) -> Tensor:
    rounded: Tensor = _Rounded.apply(x.float(), *arguments)  # type: ignore[no-untyped-call]
    return rounded.to(x.dtype)
