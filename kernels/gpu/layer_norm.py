"""LayerNorm: layer normalisation of vectors that lie by feature, as sparse linear layers read and write them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from nested_sparse.errors import InputError

from .lines import by_feature, new_lines, on_device

_SUMS = 16384
"""Numbers that a program holds in registers."""


@triton.jit
def _add(a, b):  # type: ignore[no-untyped-def]
    """Of our own, because tl.sum is interpreted only where Triton was loaded for its interpreter."""
    return a + b


@triton.jit(do_not_specialize=["epsilon"])  # type: ignore[untyped-decorator]
def _normalise(  # type: ignore[no-untyped-def]
    y, x, scale, shift, features, places, y_row, x_row, epsilon, FEATURES: tl.constexpr, PIXELS: tl.constexpr
):
    """PIXELS whole vectors; the variance is that of differences from the mean, in float32."""
    feature = tl.arange(0, FEATURES)
    place = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    real = feature < features
    there = real[:, None] & (place < places)[None, :]
    rows = feature.to(tl.int64)[:, None]
    values = tl.load(x + rows * x_row + place[None, :], mask=there, other=0.0).to(tl.float32)
    mean = tl.reduce(values, 0, _add) / features
    apart = tl.where(real[:, None], values - mean[None, :], 0.0)
    spread = tl.sqrt(tl.reduce(apart * apart, 0, _add) / features + epsilon)
    factor = tl.load(scale + feature, mask=real, other=0.0).to(tl.float32)
    offset = tl.load(shift + feature, mask=real, other=0.0).to(tl.float32)
    result = apart / spread[None, :] * factor[:, None] + offset[:, None]
    tl.store(y + rows * y_row + place[None, :], result.to(y.dtype.element_ty), mask=there)


def layer_norm(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, epsilon: float = 1e-5) -> torch.Tensor:
    """[..., K] of x's dtype, which lies by feature: (x - mean) / sqrt(variance + epsilon) · scale + shift.

    x: [..., K], K at most 16384; copied first where it does not lie by feature. scale, shift: (K,), of any float dtype.
    torch's own needs vectors that lie row by row, so it would copy before and after. Raises InputError.
    """
    features = x.shape[-1]
    if features > _SUMS or scale.shape != (features,) or shift.shape != (features,):
        got = f"{list(x.shape)}, {list(scale.shape)} and {list(shift.shape)}"
        raise InputError(f"x must be [..., K] with K up to {_SUMS}, scale and shift [K], got {got}")
    out, written = new_lines(x, features)
    read = by_feature(x)
    places = min(written.places, read.places)
    if places:
        rows = triton.next_power_of_2(features)
        pixels = max(1, min(64, _SUMS // rows, triton.next_power_of_2(places)))
        with on_device(x):
            _normalise[(triton.cdiv(places, pixels),)](
                *(written.tensor, read.tensor, scale, shift, features, places),
                *(written.tensor.stride(1), read.tensor.stride(1), epsilon),
                FEATURES=rows, PIXELS=pixels, num_warps=8,
            )  # fmt: skip
    return out
