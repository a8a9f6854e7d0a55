"""NestedConvTranspose: a transposed convolution with nested weights, in one to three dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from nested_sparse.graph.contract import OUTPUT_PADDING, SPATIAL_DIMENSIONS, WINDOW
from nested_sparse.layouts import Layout
from nested_sparse.phases import column_order

from .conv import NestedConv

CONVOLVE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
"""torch's transposed convolution by its spatial dimensions."""
MOST_PHASES = 4096
"""Most products of the strides that the operator takes."""


class NestedConvTranspose(NestedConv):
    """A transposed convolution with nested weights (O, C, ...), which torch's layer holds as (C, O, ...).

    Column k of `first_level` is that of NestedConv; a file has the columns in the order of its phases.
    output_padding: what torch's layer adds at the end, one size per axis of `kernel_size`.
    """

    op = "conv_transpose"

    def __init__(self, conv: Any, *, layout: Layout, level_count: int) -> None:
        super().__init__(conv, layout=layout, level_count=level_count)
        *before, x = conv.output_padding
        self.output_padding = (*(before or [0]), x)

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """(N, C, H, W) or (C, H, W) to (N, O, Ho, Wo) or (O, Ho, Wo), at the current level; as torch's layer."""
        x, weight = self.operands(x)
        before, _ = self._before_and_after
        given = (self.stride, before, self._more(x, output_size), self.dilation)
        stride, padding, more, dilation = (sizes[-self.spatial :] for sizes in given)
        turned = self.turned(weight)
        answer: Tensor = CONVOLVE[self.spatial](
            x, turned, self.level_bias(), stride, padding, more, self.groups, dilation
        )
        return answer

    @staticmethod
    def turned(weight: Tensor) -> Tensor:
        """(C, O, ...) as (O, C, ...)."""
        return weight.transpose(0, 1)

    @staticmethod
    def why_dense(module: Any) -> str | None:
        """Groups, and strides that make too many phases."""
        if module.groups != 1:
            return f"a transposed convolution in {module.groups} groups is not nested, only in one"
        if np.prod(module.stride, dtype=float) > MOST_PHASES:
            return f"its strides {tuple(module.stride)} make more than {MOST_PHASES} phases"
        return NestedConv.why_dense(module)

    @classmethod
    def own_layout(cls, layout: Layout) -> Layout:
        """Blocks in place of gather groups, which would hold weights of several phases."""
        return layout.in_blocks

    def attributes(self) -> dict[str, list[int]]:
        """The window, and `spatial_dimensions` where it is not 2."""
        return {name: values for name, values in super().attributes().items() if name in (*WINDOW, SPATIAL_DIMENSIONS)}

    def of_node(self) -> dict[str, list[int]]:
        """The output padding of the module."""
        return {OUTPUT_PADDING: list(self.output_padding)}

    def column_order(self) -> NDArray[np.int64]:
        """By phase."""
        before, _ = self._before_and_after
        return column_order(self.in_channels, self.kernel_size, self.stride, before, self.dilation)

    def traced(self, x: Tensor, operator: Callable[..., Tensor], output_size: Sequence[int] | None = None) -> Tensor:
        """One node, with the padding at the end that this call asks for."""
        if x.dim() == 1 + self.spatial:
            return self.traced(x.unsqueeze(0), operator, output_size).squeeze(0)
        more = self._more(x, output_size)
        usual = self.output_shape(x)
        sizes = [size + a - b for size, a, b in zip(usual[2:], more[-self.spatial :], self._usual, strict=True)]
        return operator(x, (*usual[:2], *sizes), **{OUTPUT_PADDING: list(more)})

    def columns(self, x: Tensor, positions: Tensor) -> Tensor:
        """(1, N·P, K) what each tap takes at each position; 0 for a tap of another phase."""
        positions, images = positions.to(x.device), self._images(x)
        before, _ = self._before_and_after
        axes = len(self.kernel_size)
        at: list[Tensor] = []
        inside = torch.ones((1,), dtype=torch.bool, device=x.device)
        rest = positions
        for axis, size in reversed([*enumerate(self._output_sizes(images.shape[2:]))]):
            taps = torch.arange(self.kernel_size[axis], device=x.device) * self.dilation[axis]
            first = (rest % size + before[axis]).reshape(*positions.shape, *[1] * axes)
            source = first - taps.reshape(-1, *[1] * (axes - 1 - axis))
            index = source.div(self.stride[axis], rounding_mode="floor")
            here = (index * self.stride[axis] == source) & (index >= 0) & (index < images.shape[2 + axis])
            inside = inside & here
            at.insert(0, index.clamp(0, images.shape[2 + axis] - 1))
            rest = rest // size
        sample = torch.arange(len(images), device=x.device).reshape(-1, *[1] * (1 + axes))
        taken = images.movedim(1, -1)[(sample, *at)]  # (N, P, KH, KW, C)
        taken = torch.where(inside.unsqueeze(-1), taken, taken.new_zeros(()))
        return taken.movedim(-1, 2).flatten(2).flatten(0, 1)[None]

    @property
    def _usual(self) -> tuple[int, ...]:
        """The output padding of each spatial dimension where a call names no output size."""
        return self.output_padding[-self.spatial :]

    def _more(self, x: Tensor, output_size: Sequence[int] | None) -> tuple[int, ...]:
        """The output padding, as `kernel_size`, that gives an output of `output_size`. Raises ValueError as torch."""
        if output_size is None:
            return self.output_padding
        wanted = [int(size) for size in output_size][-self.spatial :]
        if len(output_size) not in (self.spatial, x.dim()):
            raise ValueError(f"{self.name!r}: output_size must have {self.spatial} or {x.dim()} elements")
        least = [
            size - usual for size, usual in zip(self._output_sizes(x.shape[-self.spatial :]), self._usual, strict=True)
        ]
        more = [size - low for size, low in zip(wanted, least, strict=True)]
        if not all(0 <= each < step for each, step in zip(more, self.stride[-self.spatial :], strict=True)):
            raise ValueError(f"{self.name!r}: output_size {wanted} is not possible for an input of {list(x.shape)}")
        return (*[0] * (len(self.kernel_size) - self.spatial), *more)

    def _output_sizes(self, sizes: Sequence[int]) -> list[int]:
        found = []
        before, after = self._before_and_after
        for axis, size in enumerate(sizes, start=len(before) - len(sizes)):
            span = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1 + self.output_padding[axis]
            found.append((size - 1) * self.stride[axis] + span - before[axis] - after[axis])
        return found


class NestedConvTranspose1d(NestedConvTranspose):
    """Over (N, C, W); weights (O, C, KW)."""

    spatial = 1


class NestedConvTranspose2d(NestedConvTranspose):
    """Over (N, C, H, W); weights (O, C, KH, KW)."""

    spatial = 2


class NestedConvTranspose3d(NestedConvTranspose):
    """Over (N, C, D, H, W); weights (O, C, KD, KH, KW)."""

    spatial = 3


TRANSPOSED: dict[type[nn.Module], type[NestedConvTranspose]] = {
    nn.ConvTranspose1d: NestedConvTranspose1d,
    nn.ConvTranspose2d: NestedConvTranspose2d,
    nn.ConvTranspose3d: NestedConvTranspose3d,
}
"""Nested class by the torch class that it replaces."""
