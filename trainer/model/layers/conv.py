"""NestedConv: a convolution with nested weights, in one to three dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nested_sparse.errors import ExportError
from nested_sparse.graph.contract import CONV_KIND, WINDOW
from nested_sparse.layouts import Blocks, Layout

from .layer import NestedLayer

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
"""torch's convolution by its spatial dimensions."""


class NestedConv(NestedLayer):
    """A convolution with nested weights (O, C / groups, ...), padded with zeros: NestedConv1d, 2d or 3d.

    Column k of `first_level` is (c·KH + ky)·KW + kx, where c is a channel of the row's group; in 3-D
    ((c·KD + kz)·KH + ky)·KW + kx.
    kernel_size, stride, dilation: (y, x), in 3-D (z, y, x). padding: (top, left, bottom, right), in 3-D (front, top,
    left, back, bottom, right). A 1-D convolution treats its input as an image of one row.
    """

    op = "conv"
    row_step = 4
    spatial: ClassVar[int]
    """Spatial dimensions, 1 to 3."""

    def __init__(self, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, *, layout: Layout, level_count: int) -> None:
        super().__init__(conv, layout=layout, level_count=level_count)
        self.in_channels, self.out_channels, self.groups = conv.in_channels, conv.out_channels, conv.groups
        self.kernel_size = _sizes(conv.kernel_size, 1)
        self.stride = _sizes(conv.stride, 1)
        self.dilation = _sizes(conv.dilation, 1)
        self.padding = _sides(conv)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) or (C, H, W) to (N, O, Ho, Wo) or (O, Ho, Wo), at the current level.

        Without H in 1-D, with D before it in 3-D.
        """
        x, weight = self.operands(x)
        before, after = self._before_and_after
        if before != after:
            x = self._padded(x)
            before = (0,) * len(before)
        stride, padding, dilation = (sizes[-self.spatial :] for sizes in (self.stride, before, self.dilation))
        answer: Tensor = CONVOLVE[self.spatial](x, weight, self.level_bias(), stride, padding, dilation, self.groups)
        return answer

    @staticmethod
    def why_dense(module: Any) -> str | None:
        """Padding with other values than zeros."""
        if module.padding_mode == "zeros":
            return None
        return f"padding_mode is {module.padding_mode!r}, only 'zeros' is nested"

    @staticmethod
    def stays_whole(module: Any, layout: Layout) -> bool:
        """A depthwise row has only its taps, in total a hundredth of MobileNet's weights.

        Under pattern channel, groups read different channels, so no channel can be dropped for all rows.
        """
        return bool(module.groups > 1 and (module.groups == module.in_channels or layout.whole_channels))

    @classmethod
    def whole_layout(cls, layout: Layout) -> Layout:
        """Blocks of 8 rows where the other layers have as many, else of 4."""
        return Blocks(8 if layout.block_rows >= 8 else 4)

    @property
    def channel_dim(self) -> int:
        """The dimension before the spatial ones."""
        return -1 - self.spatial

    def attributes(self) -> dict[str, list[int]]:
        """The window, and `groups` and `spatial_dimensions` where they are not the operator's defaults."""
        sizes = (self.kernel_size, self.stride, self.padding, self.dilation)
        window = {name: list(each) for name, each in zip(WINDOW, sizes, strict=True)}
        given = dict(zip(CONV_KIND, (self.groups, self.spatial), strict=True))
        return window | {name: [value] for name, value in given.items() if value != CONV_KIND[name].default}

    def output_shape(self, x: Tensor) -> tuple[int, ...]:
        """(N, O, Ho, Wo), without Ho in 1-D, with Do before it in 3-D."""
        if x.dim() != 2 + self.spatial or x.shape[1] != self.in_channels:
            shape = f"[N, {self.in_channels}, {', '.join('DHW'[-self.spatial :])}]"
            raise ExportError(f"{self.name!r}: expected an input {shape}, got {list(x.shape)}")
        return (x.shape[0], self.out_channels, *self._output_sizes(x.shape[2:]))

    def traced(self, x: Tensor, operator: Callable[[Tensor, tuple[int, ...]], Tensor]) -> Tensor:
        """The operator needs a batch, so an image without one becomes a batch of one."""
        if x.dim() == 1 + self.spatial:
            return self.traced(x.unsqueeze(0), operator).squeeze(0)
        return super().traced(x, operator)

    def positions(self, x: Tensor, most: int, generator: torch.Generator) -> Tensor:
        """(N, P), P positions y·Wo + x per sample, in 3-D (z·Ho + y)·Wo + x."""
        images = self._images(x)
        pixels = math.prod(self._output_sizes(images.shape[2:]))
        each = min(pixels, -(-most // len(images)))
        if each == pixels:
            return torch.arange(each).expand(len(images), -1)
        return torch.rand(len(images), pixels, generator=generator).topk(each).indices

    def columns(self, x: Tensor, positions: Tensor) -> Tensor:
        """(groups, N·P, K) what the window reads at each position."""
        positions, images = positions.to(x.device), self._images(x)
        axes = len(self.kernel_size)
        at: list[Tensor] = []
        rest = positions
        for axis, size in reversed([*enumerate(self._output_sizes(images.shape[2:]))]):
            taps = torch.arange(self.kernel_size[axis], device=x.device) * self.dilation[axis]
            first = (rest % size * self.stride[axis]).reshape(*positions.shape, *[1] * axes)
            at.insert(0, first + taps.reshape(-1, *[1] * (axes - 1 - axis)))
            rest = rest // size
        sample = torch.arange(len(images), device=x.device).reshape(-1, *[1] * (1 + axes))
        padded = self._padded(images).movedim(1, -1)
        taken = padded[(sample, *at)].movedim(-1, 0)  # (C, N, P, KH, KW)
        taken = taken.reshape(self.groups, -1, positions.numel(), *self.kernel_size)
        return taken.transpose(1, 2).flatten(2)

    def _output_sizes(self, sizes: Sequence[int]) -> list[int]:
        """Sizes of the output in the spatial dimensions of an input of these `sizes`, which are the window's last."""
        found = []
        before, after = self._before_and_after
        for axis, size in enumerate(sizes, start=len(before) - len(sizes)):
            padded = size + before[axis] + after[axis]
            span = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            found.append((padded - span) // self.stride[axis] + 1)
        return found

    def _images(self, x: Tensor) -> Tensor:
        """`x` as (N, C, H, W): a 1-D input becomes an image of one row, a single sample a batch of one."""
        if x.ndim == self.spatial + 1:
            x = x[None]
        return x[:, :, None] if self.spatial == 1 else x

    @property
    def _before_and_after(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The padding before and behind the image, each as `kernel_size`."""
        return self.padding[: len(self.padding) // 2], self.padding[len(self.padding) // 2 :]

    def _padded(self, x: Tensor) -> Tensor:
        """`x` with the layer's zeros around it."""
        sides = [side for axis in zip(*self._before_and_after, strict=True) for side in reversed(axis)]
        return F.pad(x, sides[::-1][: 2 * self.spatial])


class NestedConv1d(NestedConv):
    """A convolution over (N, C, W); weights (O, C / groups, KW)."""

    spatial = 1


class NestedConv2d(NestedConv):
    """A convolution over (N, C, H, W); weights (O, C / groups, KH, KW)."""

    spatial = 2


class NestedConv3d(NestedConv):
    """A convolution over (N, C, D, H, W); weights (O, C / groups, KD, KH, KW)."""

    spatial = 3


def _sizes(sizes: Sequence[int], of_lines: int) -> tuple[int, ...]:
    """(y, x) or (z, y, x) from one size per spatial dimension; y is `of_lines` for a 1-D convolution."""
    *before, x = (int(size) for size in sizes)
    return (*(before or [of_lines]), x)


def _sides(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[int, ...]:
    """Padding before and behind each axis; "same" puts the odd pixel at the bottom and right, as torch does."""
    if isinstance(conv.padding, str):
        totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        both = _sizes(totals, 0) if conv.padding == "same" else _sizes([0] * len(totals), 0)
        before = tuple(total // 2 for total in both)
        return (*before, *(total - first for total, first in zip(both, before, strict=True)))
    before = _sizes(conv.padding, 0)
    return (*before, *before)
