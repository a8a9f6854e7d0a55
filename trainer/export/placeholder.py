"""Placeholders: nodes without weights that stand for everything that depends on the level while a model is traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nested_sparse.errors import ExportError
from nested_sparse.graph.contract import DOMAIN, DOMAIN_VERSION, LAYER, LAYER_KINDS

from ..model.layers import NestedLayer
from ..model.modes import replaced_forward
from ..model.norm import LevelBatchNorm

# These nodes never leave the exporter: functional_uses.py and fuse.py replace them by our operators or ONNX's.
LEVEL_NORM = "LevelNorm"
LEVEL_VALUE = "LevelValue"
LEVEL_WEIGHT = "LevelWeight"

Forward = Callable[..., Any]
LevelValues = Mapping[str, NDArray[Any]]
"""(L, ...) the values of a tensor at each level, by the tensor's dotted path."""


@contextmanager
def placeholders(model: nn.Module) -> Iterator[LevelValues]:
    """Context in which nested layers of `model` only compute shapes, and trace to one ONNX node each.

    The node has the layer's name as attribute `layer`, and no weight enters the graph. A level norm that only
    normalises is such a node too, with its dotted path. Any other level norm runs the user's module, whose tensors are
    then LevelValue nodes with their own dotted paths, the keys of the yielded values; so the exporter cannot fold
    values that depend on the level. (Plain norms could be traced in the same way, but ResNet-50's export would take
    3 s more.) Code that reads a nested layer's weight or bias past the layer gets a LevelWeight node (unless the layer
    is kept dense) or a LevelValue node. At the end every forward is restored.
    """
    values: dict[str, NDArray[Any]] = {}
    with ExitStack() as stack:
        for path, module in list(model.named_modules()):
            if isinstance(module, NestedLayer):
                stack.enter_context(replaced_forward(module, _layer(module)))
                stack.enter_context(_replaced_reads(module))
                if module.biases is not None:
                    values[bias_name(module.name)] = _array(module.biases)
            elif isinstance(module, LevelBatchNorm):
                plain = module.plain
                if not plain:
                    values |= _norm_values(path, module)
                forward = _plain_norm(path) if plain else _norm(path, module)
                stack.enter_context(replaced_forward(module, forward))
                if plain:
                    stack.enter_context(_without_norms(module))
        yield values


def bias_name(layer: str) -> str:
    """Name of the LevelValue of a layer's bias."""
    return f"{layer}.bias"


@contextmanager
def _replaced_reads(layer: NestedLayer) -> Iterator[None]:
    rows = layer.values.shape[0]

    def read(name: str) -> Tensor | None:
        if name == "weight":
            weight = (
                layer.values if layer.dense else _leaf(LEVEL_WEIGHT, layer.name, layer.values.dtype, layer.values.shape)
            )
            return layer.turned(weight)
        return None if layer.biases is None else _leaf(LEVEL_VALUE, bias_name(layer.name), layer.biases.dtype, (rows,))

    layer.read = read
    try:
        yield
    finally:
        layer.read = None


def _layer(layer: NestedLayer) -> Forward:
    kind = LAYER_KINDS[layer.op]
    attributes = {LAYER: layer.name, **kind.in_node(layer.attributes())}
    if kind.gates:
        return lambda x, *state: _recurrent(layer, attributes, x, state)

    def operator(x: Tensor, shape: tuple[int, ...], **of_call: Any) -> Tensor:
        return _node(kind.operator, x, attributes | of_call, shape)

    return lambda x, *args, **kwargs: layer.traced(x, operator, *args, **kwargs)


def _recurrent(
    layer: NestedLayer, attributes: dict[str, Any], x: Tensor, state: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The outputs of a recurrent layer's node. Its initial state is one tensor, [states, N, H]."""
    kind, shape = LAYER_KINDS[layer.op], layer.output_shape(x)
    _check_dtype(layer.name, x)
    shapes = (shape, *[shape[1:]] * (kind.states - 1))
    inputs = (x, torch.stack(tuple(state))) if state else (x,)
    nodes = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::{kind.operator}",
        inputs,
        attributes,
        dtypes=(x.dtype,) * len(shapes),
        shapes=shapes,
        version=DOMAIN_VERSION,
    )
    return tuple(nodes)


def _norm_values(path: str, norm: LevelBatchNorm) -> dict[str, NDArray[Any]]:
    """(L, ...) values of each tensor of the norm's modules, by the path that it would have without levels."""
    tensors = [dict(_tensors(each)) for each in norm.norms]
    return {f"{path}.{name}": np.stack([_array(of_level[name]) for of_level in tensors]) for name in tensors[0]}


def _tensors(norm: nn.Module) -> list[tuple[str, Tensor]]:
    return [*norm.named_parameters(remove_duplicate=False), *norm.named_buffers(remove_duplicate=False)]


def _plain_norm(path: str) -> Forward:
    def forward(x: Tensor) -> Tensor:
        return _node(LEVEL_NORM, x, {LAYER: path}, tuple(x.shape))

    return forward


@contextmanager
def _without_norms(norm: LevelBatchNorm) -> Iterator[None]:
    """Context in which the norm has no tensors: each would be an input of torch's program, though no node reads it.

    Of Jasper's 444 nodes 315 were such tensors, and torch.export and torch.onnx took twice as long as for the plain
    model.
    """
    norms = norm._modules.pop("norms")
    try:
        yield
    finally:
        norm._modules["norms"] = norms


def _norm(path: str, norm: LevelBatchNorm) -> Forward:
    """One of the norm's modules, its tensors replaced by nodes that stand for every level's."""
    module = norm.norms[0]

    def forward(*args: Any, **kwargs: Any) -> Any:
        nodes = {
            name: _leaf(LEVEL_VALUE, f"{path}.{name}", tensor.dtype, tensor.shape) for name, tensor in _tensors(module)
        }
        with _replaced_tensors(module, nodes):
            return module(*args, **kwargs)

    return forward


@contextmanager
def _replaced_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Context in which `tensors`, by dotted names, take the place of parameters and buffers."""
    places = []
    for name, tensor in tensors.items():
        owner_path, _, key = name.rpartition(".")
        owner = module.get_submodule(owner_path)
        held: dict[str, Any] = owner._parameters if key in owner._parameters else owner._buffers
        places.append((held, key, held[key]))
        held[key] = tensor
    try:
        yield
    finally:
        for held, key, before in places:
            held[key] = before


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array


def _leaf(operator: str, name: str, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """A node without inputs."""
    node: Tensor = torch.onnx.ops.symbolic(
        f"{DOMAIN}::{operator}", (), {LAYER: name}, dtype=dtype, shape=tuple(shape), version=DOMAIN_VERSION
    )
    return node


def _node(operator: str, x: Tensor, attributes: dict[str, Any], shape: tuple[int, ...]) -> Tensor:
    """The node's output, filled with zeros: nothing is computed while tracing."""
    _check_dtype(attributes[LAYER], x)
    node: Tensor = torch.onnx.ops.symbolic(
        f"{DOMAIN}::{operator}", (x,), attributes, dtype=x.dtype, shape=shape, version=DOMAIN_VERSION
    )
    return node


def _check_dtype(layer: str, x: Tensor) -> None:
    if x.dtype != torch.float32:
        raise ExportError(f"{layer!r}: nested layers compute in float32, got {x.dtype}; call .float() first")
