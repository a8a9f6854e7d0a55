"""Placeholders: while a model is traced, each nested layer and level norm is one node without weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nested_sparse.errors import ExportError
from nested_sparse.trainer.layers import NestedConv, NestedLinear
from nested_sparse.trainer.norm import LevelBatchNorm

DOMAIN = "nested_sparse"
CONV = "NestedConv"
LINEAR = "NestedLinear"
LEVEL_NORM = "LevelNorm"  # never leaves the exporter: fuse.py folds it away or spells it out

Forward = Callable[[Tensor], Tensor]


@contextmanager
def placeholders(model: nn.Module) -> Iterator[None]:
    """Within it, nested layers and level norms of `model` only compute shapes and trace to one ONNX node each.

    The node carries the layer's name, or the norm's dotted path, as attribute `layer`; so no weight enters the graph
    and no exporter folds a norm whose statistics depend on the level. Leaving it restores every forward.
    """
    with ExitStack() as stack:
        for path, module in model.named_modules():
            forward = _placeholder(path, module)
            if forward is not None:
                stack.enter_context(_replaced_forward(module, forward))
        yield


def window_attributes(layer: NestedConv) -> dict[str, list[int]]:
    """The convolution's window as the checkpoint and the operator name it; pads are top, left, bottom, right."""
    return {
        "kernel_shape": [int(size) for size in layer.kernel_size],
        "strides": [int(step) for step in layer.stride],
        "pads": [int(pad) for pad in layer.padding],
        "dilations": [int(step) for step in layer.dilation],
    }


def kind_attributes(layer: NestedConv) -> dict[str, int]:
    """`groups` and `spatial_dimensions`, where they are not the operator's defaults."""
    given = {"groups": (layer.groups, 1), "spatial_dimensions": (layer.spatial, 2)}
    return {name: value for name, (value, default) in given.items() if value != default}


@contextmanager
def _replaced_forward(module: nn.Module, forward: Forward) -> Iterator[None]:
    absent = object()
    before = module.__dict__.get("forward", absent)
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is absent:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


def _placeholder(path: str, module: nn.Module) -> Forward | None:
    if isinstance(module, NestedConv):
        return _conv(module)
    if isinstance(module, NestedLinear):
        return _linear(module)
    if isinstance(module, LevelBatchNorm):
        return _norm(path)
    return None


def _conv(layer: NestedConv) -> Forward:
    window, rank = window_attributes(layer), 2 + layer.spatial
    attributes = {"layer": layer.name, **window, **kind_attributes(layer)}

    def forward(x: Tensor) -> Tensor:
        if x.dim() == rank - 1:  # one image without a batch; the operator wants one
            return forward(x.unsqueeze(0)).squeeze(0)
        if x.dim() != rank or x.shape[1] != layer.in_channels:
            shape = f"[N, {layer.in_channels}, {'H, ' * (layer.spatial - 1)}W]"
            raise ExportError(f"{layer.name!r}: expected an input {shape}, got {list(x.shape)}")
        return _node(CONV, x, attributes, (x.shape[0], layer.out_channels, *_output_size(x, window)))

    return forward


def _output_size(x: Tensor, window: dict[str, list[int]]) -> list[int]:
    """Of the spatial dimensions that x has, the last of the window's two."""
    kernel, strides, pads, dilations = (window[name] for name in ("kernel_shape", "strides", "pads", "dilations"))
    return [
        (x.shape[axis - 2] + pads[axis] + pads[2 + axis] - dilations[axis] * (kernel[axis] - 1) - 1) // strides[axis]
        + 1
        for axis in range(2 - (x.dim() - 2), 2)
    ]


def _linear(layer: NestedLinear) -> Forward:
    rows, columns = (int(size) for size in layer.weight.shape)

    def forward(x: Tensor) -> Tensor:
        if x.dim() < 1 or x.shape[-1] != columns:
            raise ExportError(f"{layer.name!r}: expected an input [..., {columns}], got {list(x.shape)}")
        return _node(LINEAR, x, {"layer": layer.name}, (*x.shape[:-1], rows))

    return forward


def _norm(path: str) -> Forward:
    def forward(x: Tensor) -> Tensor:
        return _node(LEVEL_NORM, x, {"layer": path}, tuple(x.shape))

    return forward


def _node(operator: str, x: Tensor, attributes: dict[str, Any], shape: tuple[int, ...]) -> Tensor:
    """The node's output, filled with zeros: nothing is computed while tracing."""
    if x.dtype != torch.float32:
        raise ExportError(
            f"{attributes['layer']!r}: nested layers compute in float32, got {x.dtype}; call .float() first"
        )
    node: Tensor = torch.onnx.ops.symbolic(
        f"{DOMAIN}::{operator}", (x,), attributes, dtype=x.dtype, shape=shape, version=1
    )
    return node
