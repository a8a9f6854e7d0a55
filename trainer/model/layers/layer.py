"""NestedLayer: a layer with one weight, and a mask and a bias per level. Each kind of layer is a subclass."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nested_sparse.coupled import ChannelGroup
from nested_sparse.graph.contract import LAYER_KINDS
from nested_sparse.layouts import Blocks, Layout
from nested_sparse.quantization import MAX_COLUMNS

from ..modes import called_by_other
from .int8_rounding import rounded_activation, rounded_weight, row_scales, scale_and_zero, with_batch

GRADIENTS = ("kept", "ring", "all")
"""Weights that a level's gradient may reach: the kept ones, those that the level adds to the level below, or all of
them, where dropped weights have the gradient of a kept weight of value zero."""


class NestedLayer(nn.Module):
    """Base of all nested layers: a weight whose blocks have a first level.

    op: the kind's name in files, a key of nested_sparse.graph.contract.LAYER_KINDS.
    row_step: rows that pattern channel keeps or drops together: the block rows that suit the kernels of the operator.
    groups: number of equal parts of the rows and the input channels; each part of the rows reads its own channels.
    values: the parameter called "weight", (O, ...), with the values of every level; K is the product of all dimensions
        but the first.
    biases: the parameter called "bias", (L, O), one row per level, or None.
    weight, bias: the two parameters. Exception: another module's forward that reads them directly, e.g. F.linear(x,
        self.proj.weight, self.proj.bias), gets the current level's: as torch's layer holds it, with zeros for dropped
        weights, and (O,).
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
    scales: buffer, float32 (L, O), a factor of each row of the weight at each level, of which a file makes the scale of
        its sums; None for 1.
    int8_ranges: buffer, float32 (L, 2), least and largest value of the layer's input at each level, a running mean over
        the batches of training, NaN before the first; None: `forward` does not round as an int8 file does. A layer that
        is called at several places has one range for all of them.
    rounds: whether `forward` rounds, where there are ranges.
    """

    op: ClassVar[str]
    row_step: ClassVar[int]
    groups: int = 1
    weight: Tensor
    bias: Tensor | None
    first_level: Tensor
    permutation: Tensor | None
    allowed: Tensor | None
    scales: Tensor | None
    int8_ranges: Tensor | None

    def __init__(self, module: Any, *, layout: Layout, level_count: int) -> None:
        """Take over the weight of `module`, a layer of torch, and copy its bias for each level."""
        super().__init__()
        weight, bias = module.weight, module.bias
        rows_first = self.turned(weight)
        if rows_first is not weight:
            own = rows_first.detach().clone(memory_format=torch.contiguous_format)
            rows_first = nn.Parameter(own, weight.requires_grad)
        self.weight = rows_first
        per_level = None if bias is None else bias.detach().clone().expand(level_count, -1).contiguous()
        self.bias = None if per_level is None else nn.Parameter(per_level, bias is not None and bias.requires_grad)
        self.register_buffer("first_level", None)
        self.register_buffer("permutation", None)
        self.register_buffer("allowed", None)
        self.register_buffer("scales", None)
        self.register_buffer("int8_ranges", None)
        self.set_layout(layout)
        self.level_count = level_count
        self.level = level_count - 1
        self.name = ""
        self.dense = False
        self.gradient = "kept"
        self.rounds = True
        self.writes: ChannelGroup | None = None
        self.reads: ChannelGroup | None = None
        self.read: Callable[[str], Tensor | None] | None = None
        self._masks: _MaskCache | None = None

    def set_layout(self, layout: Layout) -> None:
        """Keep and drop weights by `layout` from now on; every level keeps everything."""
        self.layout, self.block_rows = layout, layout.block_rows
        shape = layout.cells_shape(self.weight.shape[0], self.weight[0].numel())
        self.first_level = torch.zeros(shape, dtype=torch.uint8, device=self.weight.device)

    # The kind

    @staticmethod
    def why_dense(module: Any) -> str | None:
        """The reason why a module of the kind's torch type cannot be nested; None when it can."""
        return None

    @staticmethod
    def stays_whole(module: Any, layout: Layout) -> bool:
        """Whether all weights of `module` are kept at every level, also where the user has not asked for it."""
        return False

    @classmethod
    def whole_layout(cls, layout: Layout) -> Layout:
        """The layout of a layer that is kept whole, in a model of which the other layers have `layout`."""
        return Blocks(cls.row_step)

    @classmethod
    def own_layout(cls, layout: Layout) -> Layout:
        """The layout of a sparse layer of the kind, in a model that has `layout`."""
        return layout

    @staticmethod
    def turned(weight: Tensor) -> Tensor:
        """A weight of torch's layer as (O, ...), and the other way round."""
        return weight

    def column_order(self) -> NDArray[np.int64] | None:
        """(K,) the column of `first_level` that each column of the packed weight is; None where they are the same."""
        return None

    @property
    def channel_dim(self) -> int:
        """The dimension of the input's channels and of the output's rows, counted from the end."""
        return -1

    @property
    def row_parts(self) -> int:
        """Number of equal parts of the rows; no block holds rows of two parts."""
        return self.groups

    def attributes(self) -> dict[str, list[int]]:
        """The attributes in the layer's metadata, those of its kind in nested_sparse.graph.contract.LAYER_KINDS."""
        return {}

    def of_node(self) -> dict[str, list[int]]:
        """The attributes that its node has beside these, where a call asks for nothing of its own."""
        return {}

    @property
    def has_int8(self) -> bool:
        """Whether an int8 file may hold the layer's values as int8."""
        return LAYER_KINDS[self.op].quantized is not None and self.values[0].numel() <= MAX_COLUMNS

    @abstractmethod
    def output_shape(self, x: Tensor) -> tuple[int, ...]:
        """Shape of the output for the operator's input `x`. Raises ExportError: the layer cannot read `x`."""

    def traced(self, x: Tensor, operator: Callable[[Tensor, tuple[int, ...]], Tensor]) -> Tensor:
        """The layer's output for `x` while the model is traced.

        operator: makes the operator's node, from its input and the shape of its output. Raises ExportError.
        """
        return operator(x, self.output_shape(x))

    @abstractmethod
    def positions(self, x: Tensor, most: int, generator: torch.Generator) -> Tensor:
        """int64, about `most` random output positions for the layer's input `x`; all positions if there are no more."""

    @abstractmethod
    def columns(self, x: Tensor, positions: Tensor) -> Tensor:
        """(groups, n, K) inputs of the layer at `positions`, in the order of its weight's columns.

        Their product with the weight (O, K), group by group, is the layer's output there, without the bias.
        """

    # The weight

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
        return self.turned(self.masked_weight(self.level)) if name == "weight" else self.level_bias()

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
        return self._scaled(self._kept_weight(level), level)

    def _scaled(self, weight: Tensor, level: int) -> Tensor:
        return weight if self.scales is None else weight * self.scales[level].reshape(-1, *[1] * (weight.dim() - 1))

    def _kept_weight(self, level: int) -> Tensor:
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

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The input `x` and the weight that `forward` multiplies: with int8_ranges, rounded as in an int8 file."""
        if self.int8_ranges is None or not self.rounds:
            return x, self.masked_weight(self.level)
        weight = self._kept_weight(self.level)
        ranges = self.int8_ranges[self.level]
        if self.training:
            with torch.no_grad():
                self.int8_ranges[self.level] = ranges = with_batch(ranges, x)
        else:  # a level that no batch has trained yet
            ranges = torch.where(ranges.isnan(), with_batch(ranges, x), ranges)
        scales = row_scales(self._kept_weight(self.level_count - 1))
        rounded = self._scaled(rounded_weight(weight, scales), self.level)
        return rounded_activation(x, *scale_and_zero(ranges)), rounded

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
        expanded = expanded.reshape(self.values.shape)
        channels_last = expanded.dim() == 4 and self.values.is_contiguous(memory_format=torch.channels_last)
        return expanded.to(memory_format=torch.channels_last) if channels_last else expanded

    def __getstate__(self) -> dict[str, Any]:
        """The state for copies and pickles, without the cache."""
        return {**self.__dict__, "_masks": None, "read": None}

    def extra_repr(self) -> str:
        """Shape, pattern, levels."""
        shape = "x".join(str(size) for size in self.values.shape)
        return f"{shape}, pattern={self.layout.name}, levels={self.level_count}, dense={self.dense}"


def unique_weights(layers: Iterable[NestedLayer]) -> list[NestedLayer]:
    """One layer for each weight: the first of the layers that share it."""
    return list({id(layer.values): layer for layer in reversed(list(layers))}.values())[::-1]


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
