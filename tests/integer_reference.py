"""Integer reference: the arithmetic of every int8 operator, in numpy and Python integers, apart from the kernels.

All instruction sets give these bits. Images are (N, C, H, W) or (N, C, W); weights are (O, K), K = channels of a group
x taps. Floats that decide integers are float64 unless a name says float32, and each line rounds as it is written.
A number that is not normal (zero, subnormal, infinite, NaN) is no scale: kernels treat subnormals as zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Weights = NDArray[np.int8]
Float32 = NDArray[np.float32]
Integers = NDArray[np.int64]

LARGEST_BIAS = 2**30
LARGEST_SHIFT = 24
OPEN = (-math.inf, math.inf)
SMALLEST_NORMAL = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Range:
    """One byte's meaning: value = scale x (byte - zero)."""

    scale: np.float32
    zero: int

    def clip(self, limits: tuple[float, float]) -> tuple[int, int]:
        """Bytes that stand for the limits of the values; an infinite limit is no limit."""
        lo, hi = (np.clip(np.rint(limit / float(self.scale)) + self.zero, 0, 255) for limit in limits)
        return int(lo), int(hi)


@dataclass(frozen=True)
class Image:
    """Bytes with their range, as they travel between operators."""

    data: Bytes
    range: Range


@dataclass(frozen=True)
class Window:
    """A window's attributes as ONNX has them: one entry per spatial dimension; pads: all begins, then all ends."""

    kernel_shape: Sequence[int]
    strides: Sequence[int]
    pads: Sequence[int]
    dilations: Sequence[int]

    def taps(self, data: NDArray[np.generic], fill: int) -> NDArray[np.generic]:
        """(N, C, outputs..., taps): the inputs of each output, from (N, C, inputs...). fill: the padding's value."""
        spatial = tuple(range(2, data.ndim))
        begins, ends = self.pads[: len(spatial)], self.pads[len(spatial) :]
        padded = np.pad(data, [(0, 0), (0, 0), *zip(begins, ends, strict=True)], constant_values=fill)
        spans = [(size - 1) * gap + 1 for size, gap in zip(self.kernel_shape, self.dilations, strict=True)]
        spanned = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=spatial)
        steps = [slice(None, None, step) for step in (*self.strides, *self.dilations)]
        picked = spanned[(slice(None), slice(None), *steps)]
        return picked.reshape(*picked.shape[: data.ndim], math.prod(self.kernel_shape))


@dataclass(frozen=True)
class Table:
    """256 bytes that map a convolution's sums, quantised to `sums`, to its output: an activation function."""

    sums: Range
    entries: Bytes


def table(function: Callable[[NDArray[np.float64]], NDArray[np.float64]], sums: Range, outputs: Range) -> Table:
    """The table of an activation function of float64 values."""
    values = function(float(sums.scale) * (np.arange(256.0) - sums.zero))
    entries = np.clip(np.rint(values / float(outputs.scale)) + outputs.zero, 0, 255).astype(np.uint8)
    return Table(sums, entries)


# ---- weights and activations ----


def row_scales(weight: Float32) -> Float32:
    """(O,) float32: the largest |weight| of each row of the densest level / 127; 1 where that is no normal number."""
    scales = np.abs(weight.reshape(len(weight), -1)).max(axis=1, initial=0.0) / np.float32(127)
    return np.where(scales >= SMALLEST_NORMAL, scales, np.float32(1)).astype(np.float32)


def quantised_rows(weight: Float32, scales: Float32) -> Weights:
    """(O, K) int8 in [-127, 127], rounded half to even; the division is float32."""
    rows = weight.reshape(len(weight), -1) / scales[:, None]
    return np.clip(np.rint(rows), -127, 127).astype(np.int8)


def quantise(x: Float32, to: Range) -> Bytes:
    """clamp(rint(x / scale) + zero, 0, 255): the division is float32; NaN gives the zero point, subnormal x is 0."""
    with np.errstate(over="ignore"):
        steps = np.rint(np.where(np.abs(x) < SMALLEST_NORMAL, 0, x).astype(np.float32) / to.scale)
    return np.clip(np.where(np.isnan(steps), 0, steps) + to.zero, 0, 255).astype(np.uint8)


def dequantise(image: Image) -> Float32:
    """Scale x (byte - zero) in float32."""
    with np.errstate(over="ignore"):
        return image.range.scale * (image.data.astype(np.int32) - image.range.zero).astype(np.float32)


# ---- convolution ----


@dataclass(frozen=True)
class RowConstants:
    """The epilogue of one row at one level, for given scales of its inputs. residual: R, the same for all rows."""

    bias: int
    shift: int
    multiplier: int
    residual: int


def residual_multiplier(residual: Range | None, outputs: Range) -> int:
    """R: the residual's scale in units of the output's, times 2^11."""
    return 0 if residual is None else sixteen_bits(2.0**11 * float(residual.scale) / float(outputs.scale), 0)


def sixteen_bits(value: float, least: int = -32767) -> int:
    """The value rounded half to even and clamped to least..32767; NaN gives 0."""
    return 0 if math.isnan(value) else int(np.clip(np.rint(value), least, 32767))


def row_constants(
    weight_sum: int, row_scale: float, norm: tuple[float, float], x: Range, sums: Range, residual: Range | None = None
) -> RowConstants:
    """Epilogue constants of a row: its sum of int8 weights and its scale, (scale, shift) of the level's norm.

    sums: the range of the convolution's result before a table: the output's own where there is none.
    """
    gain, shift = float(norm[0]), float(norm[1])
    r = residual_multiplier(residual, sums)
    with np.errstate(all="ignore"):
        m = np.clip(np.float64(x.scale) * np.float64(row_scale) * gain / np.float64(sums.scale), -1 / 8, 1 / 8)
        offset = np.float64(shift) / np.float64(sums.scale) + sums.zero - m * x.zero * weight_sum
        offset = offset - (r / 2**11 * residual.zero if residual is not None else 1 / 16)
    if not (np.isfinite(m) and np.isfinite(offset)):
        m, offset = np.float64(0), np.float64(sums.zero)
    floor = max(abs(offset) / 2**30, 2.0**-30)
    if abs(m) < floor:  # a row of zeros, or one that its norm silences: a constant
        m = np.copysign(floor, m)
    k = max((k for k in range(LARGEST_SHIFT + 1) if abs(m) * 2.0**k <= 1 / 8), default=0)
    start = int(np.clip(np.rint(offset / m), -LARGEST_BIAS, LARGEST_BIAS))
    return RowConstants(start + (2 ** (k - 1) if k > 0 else 0), k, sixteen_bits(float(m) * 2.0 ** (k + 18)), r)


def epilogue(
    sums: Integers,
    row: RowConstants,
    limits: tuple[int, int],
    residual: Bytes | None = None,
    entries: Bytes | None = None,
) -> Bytes:
    """Bytes of a row from its int32 sums of weight x byte, without bias. limits: bytes, ignored with a table."""
    h = saturated((within_int32(sums + row.bias)) >> row.shift)
    t = (h * row.multiplier + 2**14) >> 15
    if residual is not None:
        t = saturated(t + ((residual.astype(np.int64) * 256 * row.residual) >> 16))
    y = np.clip((t + 4) >> 3, 0, 255)
    if entries is not None:
        return entries[y]
    return np.clip(y, *limits).astype(np.uint8)


def saturated(values: Integers) -> Integers:
    """Values clamped to 16 bits."""
    return np.clip(values, -(2**15), 2**15 - 1)


def within_int32(values: Integers) -> Integers:
    """The same values; an assertion that a 32-bit sum would not have wrapped."""
    assert np.all((values >= -(2**31)) & (values < 2**31)), f"{values.min()}..{values.max()} is outside 32 bits"
    return values


@dataclass(frozen=True)
class Convolution:
    """One level of a quantised convolution: int8 weight (O, K), row scales (O,), norm (2, O): scale, shift.

    outputs: the range of its output. table: where there is one, its sums have the table's range and `limits` is unused.
    """

    weight: Weights
    scales: Float32
    norm: Float32
    window: Window
    outputs: Range
    groups: int = 1
    limits: tuple[float, float] = OPEN
    table: Table | None = field(default=None)

    def sums(self, x: Image) -> Integers:
        """(N, O, outputs...): weight x byte, the zero point's share still in it; padding holds the zero point."""
        return convolved(self.weight, self.window.taps(x.data, x.range.zero), self.groups)

    def __call__(self, x: Image, residual: Image | None = None) -> Image:
        """The output image."""
        sums_range = self.table.sums if self.table else self.outputs
        sums, entries = self.sums(x), self.table.entries if self.table else None
        y = np.empty(sums.shape, np.uint8)
        for o, row in enumerate(self.weight):
            constants = row_constants(
                int(row.sum(dtype=np.int64)),
                float(self.scales[o]),
                (float(self.norm[0, o]), float(self.norm[1, o])),
                x.range,
                sums_range,
                residual.range if residual else None,
            )
            other = residual.data[:, o] if residual else None
            y[:, o] = epilogue(sums[:, o], constants, self.outputs.clip(self.limits), other, entries)
        return Image(y, self.outputs)


def convolved(weight: Weights, taps: NDArray[np.generic], groups: int) -> Integers:
    """(N, O, outputs...) sums of a grouped convolution of taps (N, C, outputs..., T) by weight (O, C / groups x T)."""
    channels = taps.shape[1] // groups
    kernels = weight.reshape(groups, -1, channels, taps.shape[-1]).astype(np.int64)
    parts = []
    for group, kernel in enumerate(kernels):
        seen = taps[:, group * channels : (group + 1) * channels].astype(np.int64)
        parts.append(np.moveaxis(np.tensordot(kernel, seen, axes=([1, 2], [1, seen.ndim - 1])), 0, 1))
    return within_int32(np.concatenate(parts, axis=1))


# ---- linear layer ----


@dataclass(frozen=True)
class Linear:
    """One level of a quantised linear layer: int8 weight (O, K), row scales (O,), norm (2, O): scale, shift.

    x: the input's range (static), or None: each row of the input has its own (dynamic).
    """

    weight: Weights
    scales: Float32
    norm: Float32
    x: Range | None = None
    limits: tuple[float, float] = OPEN

    def __call__(self, x: Float32, residual: Float32 | None = None) -> Float32:
        """(..., O) float32 of (..., K) float32: every step rounded to float32 on its own, nothing fused."""
        rows = x.reshape(-1, x.shape[-1])
        y = np.empty((len(rows), len(self.weight)), np.float32)
        gains = self.scales.astype(np.float32) * self.norm[0].astype(np.float32)
        for n, row in enumerate(rows):
            held = self.x or dynamic_range(row)
            steps = quantise(row, held).astype(np.int64) - held.zero
            acc = within_int32(self.weight.astype(np.int64) @ steps)
            y[n] = acc.astype(np.float32) * (held.scale * gains) + self.norm[1].astype(np.float32)
        if residual is not None:
            y = y + residual.reshape(y.shape)
        return np.clip(y, *np.float32(self.limits)).reshape(*x.shape[:-1], len(self.weight))


def dynamic_range(row: Float32) -> Range:
    """A row's own range: from min(0, least) to max(0, largest), NaN left out; scale 1 where it is no normal number."""
    seen = row[~np.isnan(row)].astype(np.float32)
    lo, hi = seen.min(initial=np.float32(0)), seen.max(initial=np.float32(0))
    with np.errstate(over="ignore", invalid="ignore"):
        scale = (hi - lo) / np.float32(255)
        if not SMALLEST_NORMAL <= scale < np.inf:
            scale = np.float32(1)
        return Range(scale, int(np.clip(np.rint(-lo / scale), 0, 255)))


# ---- pools, add, multiply ----


def max_pool(x: Image, window: Window) -> Image:
    """The largest byte of each window; padding is 0, so it never wins."""
    return Image(window.taps(x.data, 0).max(axis=-1), x.range)


def average_pool(x: Image, window: Window, count_include_pad: bool) -> Image:
    """(2 sum + n) div 2 n: the mean, rounded half up. Padding counts as the zero point, or not at all.

    A window that sees nothing but padding gives the zero point.
    """
    seen = window.taps(np.ones_like(x.data), int(count_include_pad)).sum(axis=-1, dtype=np.int64)
    fill = x.range.zero if count_include_pad else 0
    sums = window.taps(x.data, fill).sum(axis=-1, dtype=np.int64)
    means = np.where(seen > 0, (2 * sums + seen) // np.maximum(2 * seen, 1), x.range.zero)
    return Image(means.astype(np.uint8), x.range)


def global_average_pool(x: Image) -> Float32:
    """(N, C, 1...) float32: scale x (sum - zero n) / n in float64, rounded once at the end."""
    spatial = tuple(range(2, x.data.ndim))
    n = math.prod(x.data.shape[2:])
    sums = x.data.sum(axis=spatial, keepdims=True, dtype=np.int64) - x.range.zero * n
    with np.errstate(over="ignore"):
        return (float(x.range.scale) * sums / n).astype(np.float32)


def add(a: Image, b: Image, outputs: Range, limits: tuple[float, float] = OPEN) -> Image:
    """clamp((a R_a + b R_b + c) >> 11, lo, hi) with c = 2^11 z_y - R_a z_a - R_b z_b + 2^10: 32-bit integers.

    R_a, R_b: each input's scale in units of the output's, as for a convolution's residual.
    """
    r_a, r_b = residual_multiplier(a.range, outputs), residual_multiplier(b.range, outputs)
    constant = 2**11 * outputs.zero - r_a * a.range.zero - r_b * b.range.zero + 2**10
    sums = within_int32(a.data.astype(np.int64) * r_a + b.data.astype(np.int64) * r_b + constant)
    return Image(np.clip(sums >> 11, *outputs.clip(limits)).astype(np.uint8), outputs)


def multiply(x: Image, factors: Float32, outputs: Range, limits: tuple[float, float] = OPEN) -> Image:
    """clamp((x F + c) >> 11, lo, hi) with c = 2^11 z_y - F z_x + 2^10, for each image and channel.

    factors: (N, C, 1...) float32; F = rint(2^11 s_x f / s_y) clamped to -32767..32767, in float64; NaN gives 0.
    """
    y = np.empty_like(x.data)
    with np.errstate(invalid="ignore"):
        gains = 2.0**11 * float(x.range.scale) * factors.astype(np.float64) / float(outputs.scale)
    for n, c in np.ndindex(x.data.shape[:2]):
        gain = sixteen_bits(float(gains[n, c].item()))
        sums = x.data[n, c].astype(np.int64) * gain + (2**11 * outputs.zero - gain * x.range.zero + 2**10)
        y[n, c] = np.clip(within_int32(sums) >> 11, *outputs.clip(limits))
    return Image(y, outputs)
