"""Nested layers: convolutions and linear layers with one weight, and a mask and a bias per level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nested_sparse.coupled import ChannelGroup
from nested_sparse.layouts import Layout

from .modes import called_by_other

GRADIENTS = ("kept", "ring", "all")
"""Weights that a level's gradient may reach: the kept ones, those that the level adds to the level below, or all of
them, where dropped weights have the gradient of a kept weight of value zero."""


class NestedLayer(nn.Module):
    """Base of all nested layers: a weight whose blocks have a first level.

    values: the parameter called "weight", (O, ...), with the values of every level; K is the product of all dimensions
        but the first.
    biases: the parameter called "bias", (L, O), one row per level, or None.
    weight, bias: the two parameters. Exception: another module's forward that reads them directly, e.g. F.linear(x,
        self.proj.weight, self.proj.bias), gets the current level's: (O, ...) with zeros for dropped weights, and (O,).
        So it computes the same as the layer. Gradients flow to the parameters.
    layout: the weights that are kept or dropped together.
    first_level: buffer, uint8, the lowest level that keeps each cell of the layout, 255 if none: (G, K) of V × 1
        blocks; V = 1 for the patterns gs{B}x{k}, where rows are padded to a whole bundle, and channel.
    allowed: buffer, bool, the weight's shape: the weights that levels may keep; None for all. A block may be kept if
        one of its weights may.
    permutation: buffer, int32 (O,), packed row r is output channel permutation[r]; None is the identity.
    level: the level that `forward` runs; set by NestedModel.set_level.
    name: dotted path in the model. dense: whether all weights are kept at every level.
    gradient: the weights that the gradient reaches, one of GRADIENTS; "kept" by default.
    writes, reads: the channel groups of the rows and of the input channels; None without coupling.
    read: function that serves such direct reads, or None; export sets it while tracing.
    """

    weight: Tensor
    bias: Tensor | None
    first_level: Tensor
    permutation: Tensor | None
    allowed: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, *, layout: Layout, level_count: int) -> None:
        super().__init__()
        self.weight = weight
        per_level = None if bias is None else bias.detach().clone().expand(level_count, -1).contiguous()
        self.bias = None if per_level is None else nn.Parameter(per_level, bias is not None and bias.requires_grad)
        shape = layout.cells_shape(weight.shape[0], weight[0].numel())
        first_level = torch.zeros(shape, dtype=torch.uint8, device=weight.device)
        self.register_buffer("first_level", first_level)
        self.register_buffer("permutation", None)
        self.register_buffer("allowed", None)
        self.layout = layout
        self.block_rows = layout.block_rows
        self.level_count = level_count
        self.level = level_count - 1
        self.name = ""
        self.dense = False
        self.gradient = "kept"
        self.writes: ChannelGroup | None = None
        self.reads: ChannelGroup | None = None
        self.read: Callable[[str], Tensor | None] | None = None
        self._masks: _MaskCache | None = None

    @property
    def values(self) -> nn.Parameter:
        """(O, ...) the values of all levels."""
        values = self._parameters["weight"]
        assert values is not None
        return values

    @property
    def biases(self) -> nn.Parameter | None:
        """(L, O), one row per level."""
        return self._parameters.get("bias")

    def __getattr__(self, name: str) -> Any:
        """Parameters and buffers; see the class for weight and bias."""
        value = super().__getattr__(name)
        if name not in ("weight", "bias"):
            return value
        if self.__dict__.get("read") is not None:
            return self.read(name)  # type: ignore[misc]
        if not called_by_other(self):
            return value
        return self.masked_weight(self.level) if name == "weight" else self.level_bias()

    def mask(self, level: int) -> Tensor:
        """Bool, the weight's shape: the weights that `level` keeps. Cached until first_level or permutation changes."""
        return self._cached("kept", level, lambda: self.first_level <= level)

    def ring(self, level: int) -> Tensor:
        """Bool, the weight's shape: the weights that `level` adds to the level below. Cached as `mask` is."""
        return self._cached("ring", level, lambda: self.first_level == level)

    def _cached(self, kind: str, level: int, blocks: Callable[[], Tensor]) -> Tensor:
        if torch.compiler.is_compiling():  # a mask made of traced tensors must not outlive the trace
            return self._expanded(blocks())
        if self._masks is None or not self._masks.fits(self.first_level, self.permutation):
            self._masks = _MaskCache(self.first_level, self.permutation)
        masks = self._masks.expanded
        if (kind, level) not in masks:
            with torch.inference_mode(False):  # an inference tensor in the cache could not take part in training
                masks[kind, level] = self._expanded(blocks())
        return masks[kind, level]

    def masked_weight(self, level: int) -> Tensor:
        """The weight of `level`: zeros for dropped weights, also where the unused value is not finite."""
        if self.dense:
            return self.values
        zero = self.values.new_zeros(())
        if self.gradient == "ring":
            below = torch.where(self.mask(level), self.values.detach(), zero)
            return torch.where(self.ring(level), self.values, below)
        kept = torch.where(self.mask(level), self.values, zero)
        if self.gradient == "all":  # straight-through: the value of `kept`, the gradient of the whole weight
            return self.values + (kept - self.values).detach()
        return kept

    def level_bias(self) -> Tensor | None:
        """(O,) the current level's bias."""
        return None if self.biases is None else self.biases[self.level]

    def _expanded(self, kept: Tensor) -> Tensor:
        """(G, K) blocks as a mask of the weight's shape, without rows of padding, rows in channel order."""
        rows = self.values.shape[0]
        expanded = kept.repeat_interleave(self.block_rows, dim=0)[:rows]
        if self.permutation is not None:
            ordered = torch.empty_like(expanded)
            ordered[self.permutation.long()] = expanded
            expanded = ordered
        return expanded.reshape(self.values.shape)

    def __getstate__(self) -> dict[str, Any]:
        """The state for copies and pickles, without the cache."""
        return {**self.__dict__, "_masks": None, "read": None}

    def extra_repr(self) -> str:
        """Shape, pattern, levels."""
        shape = "x".join(str(size) for size in self.values.shape)
        return f"{shape}, pattern={self.layout.name}, levels={self.level_count}, dense={self.dense}"


class _MaskCache:
    """Expanded masks for one state of a layer's buffers; identity and version of the buffers identify the state."""

    def __init__(self, *sources: Tensor | None) -> None:
        self._sources = sources
        self._versions = _versions(sources)
        self.expanded: dict[tuple[str, int], Tensor] = {}

    def fits(self, *sources: Tensor | None) -> bool:
        same = all(one is other for one, other in zip(sources, self._sources, strict=True))
        return same and _versions(sources) == self._versions


def _versions(sources: Sequence[Tensor | None]) -> list[int | None]:
    return [None if source is None else source._version for source in sources]


class NestedConv(NestedLayer):
    """A convolution with nested weights (O, C / groups, ...), padded with zeros: NestedConv1d or NestedConv2d.

    Column k of `first_level` is (c·KH + ky)·KW + kx, where c is a channel of the row's group.
    kernel_size, stride, dilation: (y, x). padding: (top, left, bottom, right). A 1-D convolution treats its input as an
    image of one row.
    groups: number of equal parts of the rows and the input channels; each part of the rows reads its own channels.
    """

    spatial: int
    """Spatial dimensions, 1 or 2."""

    def __init__(self, conv: nn.Conv1d | nn.Conv2d, *, layout: Layout, level_count: int) -> None:
        super().__init__(conv.weight, conv.bias, layout=layout, level_count=level_count)
        self.in_channels, self.out_channels, self.groups = conv.in_channels, conv.out_channels, conv.groups
        self.kernel_size = _pair(conv.kernel_size, 1)
        self.stride = _pair(conv.stride, 1)
        self.dilation = _pair(conv.dilation, 1)
        self.padding = _four_sides(conv)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) or (C, H, W) to (N, O, Ho, Wo) or (O, Ho, Wo), without H in 1-D, at the current level."""
        top, left, bottom, right = self.padding
        before = (top, left)
        if before != (bottom, right):
            x = F.pad(x, (left, right, top, bottom)[: 2 * self.spatial])
            before = (0, 0)
        convolve = F.conv2d if self.spatial == 2 else F.conv1d
        stride, padding, dilation = (sizes[-self.spatial :] for sizes in (self.stride, before, self.dilation))
        weight, bias = self.masked_weight(self.level), self.level_bias()
        return convolve(x, weight, bias, stride, padding, dilation, self.groups)


class NestedConv1d(NestedConv):
    """A convolution over (N, C, W); weights (O, C / groups, KW)."""

    spatial = 1


class NestedConv2d(NestedConv):
    """A convolution over (N, C, H, W); weights (O, C / groups, KH, KW)."""

    spatial = 2


class NestedLinear(NestedLayer):
    """A linear layer with nested weights (O, K)."""

    def __init__(self, linear: nn.Linear, *, layout: Layout, level_count: int) -> None:
        super().__init__(linear.weight, linear.bias, layout=layout, level_count=level_count)
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., O), at the current level."""
        return F.linear(x, self.masked_weight(self.level), self.level_bias())


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
