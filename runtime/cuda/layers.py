"""Layers: the nodes of our own domain, sparse ones by the kernels of kernels/gpu, whole ones by torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError
from nested_sparse.excerpt import excerpt
from nested_sparse.graph.contract import (
    ATTENTION,
    CLIP_MAX,
    CLIP_MIN,
    CONV,
    FUNCTION,
    FUNCTIONS,
    LAYER,
    LINEAR,
    MAX_POOL,
    NORM,
    NORM_EPSILON,
    NORM_SCALE,
    NORM_SHIFT,
    SPATIAL_DIMENSIONS,
)
from nested_sparse.graph.input_norm import has_input_norm
from nested_sparse.kernels.gpu import BLOCK_ROWS, Epilogue, GpuWeight, SparseConv, SparseLinear, Window
from nested_sparse.metadata import LayerEntry
from nested_sparse.packing import pack

from .attention import attention
from .node import Function, Node, Values, given, some
from .products import padded

_OUTPUT_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "quick_gelu": lambda y: y * torch.sigmoid(1.702 * y),
    "gelu": F.gelu,
    "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
    "hard_sigmoid": F.hardsigmoid,
    "hard_swish": F.hardswish,
}
"""By the names of graph.contract.FUNCTIONS."""


@dataclass(frozen=True, slots=True)
class Layers:
    """Makes the functions of our nodes. Layers that a graph uses twice have one weight on the device.

    Raises CheckpointError, naming the layer, where the device has no kernel for it.
    """

    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype
    weights: dict[str, GpuWeight]
    level_nbytes: list[int]
    """Bytes on the device that each level adds, so far."""

    def function(self, node: Node) -> Function:
        """The function of one of our nodes. Input 1 of a layer or a norm is the level, () int32 on the device."""
        whole = {MAX_POOL: _max_pool, NORM: self._norm, ATTENTION: attention}
        makers = {LINEAR: self._linear, CONV: self._conv, **whole}
        if node.operator not in makers:
            kinds = ", ".join(makers)
            raise self._fault(node, f"a GPU runs {kinds} of our operators; run this file on a CPU")
        return makers[node.operator](node)

    def _linear(self, node: Node) -> Function:
        entry, normalised = self._entry(node), self._input_norm(node)
        if _whole(entry):
            return self._dense(node, entry, lambda x, weight: F.linear(normalised(x), weight), last=True)
        layer = SparseLinear(self._weight(node, entry, 1), _epilogue(node))
        return lambda values: layer(normalised(some(values[0])), some(values[1]), residual=given(values, 2))

    def _input_norm(self, node: Node) -> Callable[[Tensor], Tensor]:
        """The LayerNorm of a linear layer's inputs; the identity where it has none."""
        if not has_input_norm(node.attributes):
            return lambda x: x
        scale, shift = (
            torch.tensor(node.get(name), dtype=self.dtype, device=self.device) for name in (NORM_SCALE, NORM_SHIFT)
        )
        self._count([scale.nbytes + shift.nbytes])
        epsilon = node.get(NORM_EPSILON)
        return lambda x: F.layer_norm(x, list(scale.shape), scale, shift, epsilon)

    def _conv(self, node: Node) -> Function:
        entry, spatial = self._entry(node), node.get(SPATIAL_DIMENSIONS, 2)
        groups, pads = node.get("groups", 1), list(node.get("pads"))
        kernel, stride, dilation = (list(node.get(key)) for key in ("kernel_shape", "strides", "dilations"))
        if _whole(entry):
            compute = F.conv3d if spatial == 3 else F.conv2d
            shape = [entry.rows, -1, *kernel]
            return _lines(
                self._dense(
                    node,
                    entry,
                    lambda x, w: compute(padded(x, pads), w.reshape(shape), None, stride, 0, dilation, groups),
                ),
                spatial,
            )
        if spatial == 3:
            raise self._fault(node, "a GPU runs sparse convolutions of images, not of volumes; name it in keep_dense")
        window = Window(_pair(kernel), _pair(stride), (pads[0], pads[1], pads[2], pads[3]), _pair(dilation))
        layer = SparseConv(self._weight(node, entry, groups), window, _epilogue(node))
        return _lines(lambda values: layer(some(values[0]), some(values[1]), residual=given(values, 2)), spatial)

    def _norm(self, node: Node) -> Function:
        finish = _finish(node, self.dtype)

        def norm(values: Values) -> Tensor:
            x, level, scale, shift = map(some, values)
            of_level = [each.index_select(0, level.reshape(1))[0].float() for each in (scale, shift)]
            factor, term = (each.reshape(-1, *(1,) * (x.ndim - 2)) for each in of_level)
            return finish(x.float() * factor + term)

        return norm

    def _entry(self, node: Node) -> LayerEntry:
        name = node.get(LAYER).decode()
        return next(entry for entry in self.checkpoint.layers if entry.name == name)

    def _weight(self, node: Node, entry: LayerEntry, channel_groups: int) -> GpuWeight:
        if entry.block_rows not in BLOCK_ROWS or entry.value_type.scaled or entry.layout.banks:
            names = ", ".join(f"block{rows}x1" for rows in BLOCK_ROWS)
            has = f"{entry.pattern} in blocks of {entry.block_rows} rows and {entry.value_type.name} values"
            raise self._fault(
                node, f"it has {has}; a GPU runs {names} of float values: nest with one, or name it in keep_dense"
            )
        if entry.name not in self.weights:
            weight, norms = self.checkpoint.load_layer(entry.name)
            self.weights[entry.name] = made = GpuWeight.of(
                pack(weight, len(self.checkpoint.levels)),
                norms,
                entry.columns,
                permutation=weight.permutation,
                channel_groups=channel_groups,
                dtype=self.dtype,
                device=self.device,
            )
            of_block = made.col.element_size() + made.block_rows * made.val.element_size()
            added = [blocks * of_block for blocks in entry.blocks]
            self._count([made.nbytes - sum(added[1:]), *added[1:]])
        return self.weights[entry.name]

    def _dense(
        self, node: Node, entry: LayerEntry, product: Callable[[Tensor, Tensor], Tensor], *, last: bool = False
    ) -> Function:
        """A layer that every level keeps whole. last: whether outputs are the last dimension, not the second."""
        weight, norms = self.checkpoint.load_layer(entry.name)
        values = torch.from_numpy(weight.at(len(norms) - 1)).to(self.device, self.dtype)
        norm = torch.from_numpy(norms).to(self.device)
        self._count([values.nbytes + norm.nbytes])
        finish = _finish(node, self.dtype)

        def layer(values_given: Values) -> Tensor:
            x, level, residual = some(values_given[0]), some(values_given[1]), given(values_given, 2)
            scale, shift = norm.index_select(0, level.reshape(1))[0]
            y = product(x, values).float()
            shape = (-1,) if last else (-1, *(1,) * (y.ndim - 2))
            y = y * scale.reshape(shape) + shift.reshape(shape)
            return finish(y if residual is None else y + residual)

        return layer

    def _count(self, nbytes: list[int]) -> None:
        for level, each in enumerate(nbytes):
            self.level_nbytes[level] += each

    def _fault(self, node: Node, why: str) -> CheckpointError:
        of = f" of layer '{excerpt(node.get(LAYER).decode())}'" if LAYER in node.attributes else ""
        return CheckpointError(f"{excerpt(self.checkpoint.path.name)}: {node.operator}{of}: {why}")


def _whole(entry: LayerEntry) -> bool:
    """Whether every level keeps all weights."""
    return entry.nnz[0] == entry.rows * entry.columns


def _epilogue(node: Node) -> Epilogue:
    return Epilogue(node.get(CLIP_MIN), node.get(CLIP_MAX), FUNCTIONS[node.get(FUNCTION, 0)])


def _finish(node: Node, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The clamp and the function behind a layer's float32 sums, which then become `dtype`."""
    least, most = node.get(CLIP_MIN), node.get(CLIP_MAX)
    function = _OUTPUT_FUNCTIONS[FUNCTIONS[node.get(FUNCTION, 0)]]
    if math.isinf(least) and math.isinf(most):
        return lambda y: function(y).to(dtype)
    return lambda y: function(y.clamp(least, most)).to(dtype)


def _pair(values: list[int]) -> tuple[int, int]:
    return values[0], values[1]


def _lines(layer: Function, spatial: int) -> Function:
    """A convolution of lines [N, C, W], which the layer takes as images one row high."""
    if spatial != 1:
        return layer

    def conv(values: Values) -> Tensor:
        made: Any = layer([each if each is None or each.ndim < 3 else each.unsqueeze(2) for each in values])
        y: Tensor = made.squeeze(2)
        return y

    return conv


def _max_pool(node: Node) -> Function:
    kernel, strides, pads = (list(node.get(key)) for key in ("kernel_shape", "strides", "pads"))
    compute = F.max_pool3d if len(kernel) == 3 else F.max_pool2d
    dilations = list(node.get("dilations", ())) or 1
    return lambda values: compute(padded(some(values[0]), pads), kernel, strides, 0, dilations)
