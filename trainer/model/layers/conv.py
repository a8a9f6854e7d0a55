"""NestedConv: a convolution with nested weights, in one or two dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nested_sparse.errors import ExportError
from nested_sparse.graph.contract import CONV_KIND, WINDOW
from nested_sparse.layouts import Blocks, Layout

from .layer import NestedLayer


class NestedConv(NestedLayer):
    """A convolution with nested weights (O, C / groups, ...), padded with zeros: NestedConv1d or NestedConv2d.

    Column k of `first_level` is (c·KH + ky)·KW + kx, where c is a channel of the row's group.
    kernel_size, stride, dilation: (y, x). padding: (top, left, bottom, right). A 1-D convolution treats its input as an
    image of one row.
    """

    op = "conv"
    row_step = 4
    spatial: ClassVar[int]
    """Spatial dimensions, 1 or 2."""

    def __init__(self, conv: nn.Conv1d | nn.Conv2d, *, layout: Layout, level_count: int) -> None:
        super().__init__(conv, layout=layout, level_count=level_count)
        self.in_channels, self.out_channels, self.groups = conv.in_channels, conv.out_channels, conv.groups
        self.kernel_size = _pair(conv.kernel_size, 1)
        self.stride = _pair(conv.stride, 1)
        self.dilation = _pair(conv.dilation, 1)
        self.padding = _four_sides(conv)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) or (C, H, W) to (N, O, Ho, Wo) or (O, Ho, Wo), without H in 1-D, at the current level."""
        x, weight = self.operands(x)
        top, left, bottom, right = self.padding
        before = (top, left)
        if before != (bottom, right):
            x = F.pad(x, (left, right, top, bottom)[: 2 * self.spatial])
            before = (0, 0)
        convolve = F.conv2d if self.spatial == 2 else F.conv1d
        stride, padding, dilation = (sizes[-self.spatial :] for sizes in (self.stride, before, self.dilation))
        return convolve(x, weight, self.level_bias(), stride, padding, dilation, self.groups)

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
        """(N, O, Ho, Wo), without Ho in 1-D."""
        if x.dim() != 2 + self.spatial or x.shape[1] != self.in_channels:
            shape = f"[N, {self.in_channels}, {'H, ' * (self.spatial - 1)}W]"
            raise ExportError(f"{self.name!r}: expected an input {shape}, got {list(x.shape)}")
        return (x.shape[0], self.out_channels, *self._output_sizes(x.shape[2:]))

    def traced(self, x: Tensor, operator: Callable[[Tensor, tuple[int, ...]], Tensor]) -> Tensor:
        """The operator needs a batch, so an image without one becomes a batch of one."""
        if x.dim() == 1 + self.spatial:
            return self.traced(x.unsqueeze(0), operator).squeeze(0)
        return super().traced(x, operator)

    def positions(self, x: Tensor, most: int, generator: torch.Generator) -> Tensor:
        """(N, P), P positions y·Wo + x per sample."""
        images = self._images(x)
        height, width = self._output_sizes(images.shape[2:])
        each = min(height * width, -(-most // len(images)))
        if each == height * width:
            return torch.arange(each).expand(len(images), -1)
        return torch.rand(len(images), height * width, generator=generator).topk(each).indices

    def columns(self, x: Tensor, positions: Tensor) -> Tensor:
        """(groups, N·P, K) what the window reads at each position."""
        positions, images = positions.to(x.device), self._images(x)
        _, width = self._output_sizes(images.shape[2:])
        top, left, bottom, right = self.padding
        padded = F.pad(images, (left, right, top, bottom))
        tap_y, tap_x = (
            torch.arange(k, device=x.device) * d for k, d in zip(self.kernel_size, self.dilation, strict=True)
        )
        y = (positions // width * self.stride[0])[..., None, None] + tap_y[:, None]
        at = (positions % width * self.stride[1])[..., None, None] + tap_x
        sample = torch.arange(len(images), device=x.device)[:, None, None, None]
        taken = padded[sample, :, y, at]  # (N, P, KH, KW, C)
        taken = taken.permute(4, 0, 1, 2, 3).reshape(self.groups, -1, positions.numel(), *self.kernel_size)
        return taken.transpose(1, 2).flatten(2)

    def _output_sizes(self, sizes: Sequence[int]) -> list[int]:
        """Sizes of the output in the spatial dimensions of an input of these `sizes`, which are the window's last."""
        found = []
        for axis, size in enumerate(sizes, start=2 - len(sizes)):
            padded = size + self.padding[axis] + self.padding[2 + axis]
            span = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            found.append((padded - span) // self.stride[axis] + 1)
        return found

    def _images(self, x: Tensor) -> Tensor:
        """`x` as (N, C, H, W): a 1-D input becomes an image of one row, a single sample a batch of one."""
        if x.ndim == self.spatial + 1:
            x = x[None]
        return x if self.spatial == 2 else x[:, :, None]


class NestedConv1d(NestedConv):
    """A convolution over (N, C, W); weights (O, C / groups, KW)."""

    spatial = 1


class NestedConv2d(NestedConv):
    """A convolution over (N, C, H, W); weights (O, C / groups, KH, KW)."""

    spatial = 2


def _pair(sizes: Sequence[int], of_lines: int) -> tuple[int, int]:
    """(y, x) from one size per spatial dimension; y is `of_lines` for a 1-D convolution."""
    *y, x = (int(size) for size in sizes)
    return (*y, of_lines)[0], x


def _four_sides(conv: nn.Conv1d | nn.Conv2d) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) padding; "same" puts the odd pixel at the bottom and right, as torch does."""
    if isinstance(conv.padding, str):
        totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        height, width = _pair(totals, 0) if conv.padding == "same" else (0, 0)
        return height // 2, width // 2, height - height // 2, width - width // 2
    y, x = _pair(conv.padding, 0)
    return y, x, y, x
