"""TorchGraph: a checkpoint's graph in torch, its weights on a device, for every level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import torch
from numpy.typing import NDArray
from torch import Tensor

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError, InputError
from nested_sparse.excerpt import excerpt
from nested_sparse.graph.contract import DOMAIN, LAYER, LEVEL, RESIDUAL_INPUT

from .elementwise import ELEMENTWISE, fitting
from .layers import Layers
from .node import REFUSALS, Function, Node
from .products import PRODUCTS
from .run_level import Cell, RunLevel
from .shapes import SHAPES

FUNCTIONS = {**ELEMENTWISE, **SHAPES, **PRODUCTS}
_CONSTANTS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


@dataclass(frozen=True, slots=True)
class _Step:
    """One node, ready to run. unused: values that no later step reads."""

    name: str
    function: Function
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    unused: tuple[str, ...]


class TorchGraph:
    """A graph that `check_graph` has passed, as a list of functions of torch; it is run node by node.

    checkpoint: stays open as long as this is made, and is not read again. device: a CUDA device, or the CPU where
    Triton's interpreter stands for one. dtype: type of values and weights that are float32 in the file; sums are
    float32.
    names: names of the outputs. level_nbytes: bytes on the device that each level adds.

    Raises CheckpointError where a node or a layer does not run on such a device.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._specs, self._where = checkpoint.outputs, excerpt(checkpoint.path.name)
        self.names = [spec.name for spec in checkpoint.outputs]
        self._constants: dict[str, Tensor] = {}
        graph = onnx.load_model_from_string(checkpoint.graph()).graph
        for tensor in graph.initializer:
            self._keep(tensor.name, onnx.numpy_helper.to_array(tensor))
        layers = Layers(checkpoint, device, dtype, {}, [0] * len(checkpoint.levels))
        self._steps = self._planned(graph.node, layers)
        self.level_nbytes = tuple(layers.level_nbytes)

    def run(self, arrays: Mapping[str, NDArray[Any]], cell: Cell, options: Any) -> list[NDArray[Any]]:
        """The outputs in order, at the level of `cell`, which may fall while this runs.

        arrays: checked inputs by name. options.terminate: whether to end before the next node.
        Raises InputError where an index in an input is out of range, RuntimeError where a node fails or it was ended.
        """
        with torch.inference_mode():
            level = RunLevel(cell, self._device)
            refusals: list[tuple[Tensor, str]] = []
            REFUSALS.of_run = refusals
            values = {**self._constants, LEVEL.name: level.tensor}
            values |= {name: self._moved(array) for name, array in arrays.items()}
            for step in self._steps:
                if options.terminate:
                    raise RuntimeError("the run was ended")
                level.follow()
                _run(step, values)
            results = [values[name].contiguous() for name in self.names]
            level.wait()
            for is_wrong, said in refusals:
                if bool(is_wrong):
                    raise InputError(said)
            return [self._given_back(value, spec.dtype) for value, spec in zip(results, self._specs, strict=True)]

    def close(self) -> None:
        """Free the device's memory."""
        self._constants.clear()
        self._steps = ()

    def _planned(self, nodes: Sequence[onnx.NodeProto], layers: Layers) -> tuple[_Step, ...]:
        last_use = {name: place for place, node in enumerate(nodes) for name in (*_reads(node), *node.output)}
        kept = {*self.names, LEVEL.name, ""}
        steps = []
        for place, proto in enumerate(nodes):
            if proto.op_type == "Constant" and proto.domain in ("", "ai.onnx"):
                self._keep(proto.output[0], _constant(proto))
                continue
            node, reads = self._node(proto), _reads(proto)
            function = self._function(node, layers, ours=proto.domain == DOMAIN)
            unused = {name for name in (*reads, *proto.output) if last_use[name] == place} - kept
            steps.append(_Step(node.name, function, reads, tuple(proto.output), tuple(unused)))
        return tuple(steps)

    def _node(self, proto: onnx.NodeProto) -> Node:
        name = proto.name or proto.op_type
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in proto.attribute}
        return Node(name, proto.op_type, attributes, len(proto.output), self._dtype)

    def _function(self, node: Node, layers: Layers, *, ours: bool) -> Function:
        if ours:
            return layers.function(node)
        if node.operator not in FUNCTIONS:
            raise CheckpointError(
                f"{self._where}: node '{excerpt(node.name)}' is a {excerpt(node.operator)}, which has no function for "
                "a GPU (runtime/cuda); run this file with device='cpu'"
            )
        try:
            return FUNCTIONS[node.operator](node)
        except ValueError as error:
            raise CheckpointError(
                f"{self._where}: node '{excerpt(node.name)}', a {node.operator}: {error}; run it with device='cpu'"
            ) from error

    def _keep(self, name: str, array: NDArray[Any]) -> None:
        """Keep a constant: floats on the device, whole numbers, mostly sizes, in the CPU's memory."""
        value = torch.from_numpy(np.array(array))
        if value.is_floating_point():
            value = fitting(value, self._dtype).to(self._device) if value.dtype != torch.float64 else value
        self._constants[name] = value

    def _moved(self, array: NDArray[Any]) -> Tensor:
        value = torch.from_numpy(array)
        single = value.dtype in (torch.float32, torch.float16)
        return (fitting(value, self._dtype) if single else value).to(self._device)

    def _given_back(self, value: Tensor, dtype: str) -> NDArray[Any]:
        held = value.cpu()
        array: NDArray[Any] = (held.float() if held.is_floating_point() else held).numpy().astype(dtype, copy=False)
        return array


def _reads(proto: onnx.NodeProto) -> tuple[str, ...]:
    """The inputs that a function takes: a layer's without the segments, whose weights are on the device already."""
    is_layer = proto.domain == DOMAIN and any(each.name == LAYER for each in proto.attribute)
    return tuple(proto.input[: RESIDUAL_INPUT + 1] if is_layer else proto.input)


def _run(step: _Step, values: dict[str, Tensor]) -> None:
    inputs = [values[name] if name else None for name in step.inputs]
    try:
        made = step.function(inputs)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise RuntimeError(f"node '{excerpt(step.name)}': {error}") from error
    for name, value in zip(step.outputs, [made] if isinstance(made, Tensor) else made, strict=False):
        values[name] = value
    for name in step.unused:
        del values[name]


def _constant(proto: onnx.NodeProto) -> NDArray[Any]:
    (attribute,) = proto.attribute
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name in _CONSTANTS:
        return np.array(value, _CONSTANTS[attribute.name])
    return onnx.numpy_helper.to_array(value)
