"""Integer model: a whole int8 file computed by the integer reference, each operator at the level that a test says.

ONNX's own operators run in ONNX Runtime, one at a time; a file whose answers are to be the same bits everywhere has
only those that round nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from integer_reference import (
    Convolution,
    Image,
    Linear,
    Range,
    Table,
    Window,
    add,
    average_pool,
    dequantise,
    global_average_pool,
    max_pool,
    multiply,
    quantise,
)
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.mask import NEVER


class IntegerModel:
    """An int8 file, all layers of which are int8. layers: the names of the nodes that run them."""

    def __init__(self, path: Path) -> None:
        with Checkpoint.open(path) as checkpoint:
            self._graph = onnx.load_model_from_string(checkpoint.graph()).graph
            self._opset = onnx.load_model_from_string(checkpoint.graph()).opset_import
            self._layers = {layer.name: _Layer(checkpoint, layer.name) for layer in checkpoint.layers}
        self._constants = {each.name: numpy_helper.to_array(each) for each in self._graph.initializer}
        self.layers = {node.name for node in self._graph.node if "layer" in _attributes(node)}

    def run(self, inputs: Mapping[str, NDArray[Any]], levels: int | Mapping[str, int]) -> dict[str, NDArray[Any]]:
        """The outputs. levels: the level, or that of each node by its name."""
        values: dict[str, Any] = {**self._constants, **inputs}
        for node in self._graph.node:
            level = levels if isinstance(levels, int) else levels[node.name]
            given = [None if not name else level if name == "__level__" else values.get(name) for name in node.input]
            if node.domain == "nested_sparse":
                results = [self._operators(_attributes(node), given, level)[node.op_type]()]
            else:
                results = self._onnx(node, given)
            values.update(zip(node.output, results, strict=True))
        return {output.name: values[output.name] for output in self._graph.output}

    def _operators(self, a: dict[str, Any], given: list[Any], level: int) -> dict[str, Callable[[], Any]]:
        """By the name of each of our operators: the function that computes it from the node's attributes and inputs."""
        y, limits = (lambda: _range(a, "y", level)), (a.get("clip_min"), a.get("clip_max"))
        x = given[0]
        return {
            "QuantizeImage": lambda: Image(quantise(x, y()), y()),
            "DequantizeImage": lambda: dequantise(x),
            "QuantizedConv": lambda: self._convolution(a, level, limits)(x, given[2]),
            "QuantizedLinear": lambda: self._linear(a, level, limits)(x, given[2]),
            "QuantizedMaxPool": lambda: max_pool(x, _window(a, x.data.ndim - 2)),
            "QuantizedAveragePool": lambda: average_pool(x, _window(a, x.data.ndim - 2), bool(a["count_include_pad"])),
            "QuantizedGlobalAveragePool": lambda: global_average_pool(x),
            "QuantizedAdd": lambda: add(x, given[1], y(), limits),
            "QuantizedMultiply": lambda: multiply(x, given[1], y(), limits),
        }

    def _convolution(self, a: dict[str, Any], level: int, limits: Any) -> Convolution:
        layer, table = self._layers[a["layer"].decode()], None
        if "table" in a:
            table = Table(_range(a, "sum", level), np.frombuffer(a["table"], np.uint8).reshape(-1, 256)[level])
        window, outputs = _window(a, a.get("spatial_dimensions", 2)), _range(a, "y", level)
        weight, norm = layer.weight(level), layer.norms[level]
        return Convolution(weight, layer.scales, norm, window, outputs, a.get("groups", 1), limits, table)

    def _linear(self, a: dict[str, Any], level: int, limits: Any) -> Linear:
        assert a["activations"] != b"float32", "sums of floats have no reference bit for bit"
        layer = self._layers[a["layer"].decode()]
        x = _range(a, "x", level) if a["activations"] == b"static" else None
        return Linear(layer.weight(level), layer.scales, layer.norms[level], x, limits)

    def _onnx(self, node: onnx.NodeProto, given: list[Any]) -> list[Any]:
        """The outputs of a node of ONNX's domain, from ONNX Runtime."""
        assert node.domain == "", node
        known = {name: np.asarray(value) for name, value in zip(node.input, given, strict=True) if value is not None}
        types = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in known.items()}
        graph = helper.make_graph(
            [node],
            "one node",
            [helper.make_tensor_value_info(name, types[name], value.shape) for name, value in known.items()],
            [onnx.ValueInfoProto(name=name) for name in node.output],
        )
        model = helper.make_model(graph, opset_imports=[each for each in self._opset if not each.domain], ir_version=9)
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return list(session.run(None, known))


class _Layer:
    """Weights, scales and norms of one layer."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self._nested, self.norms = checkpoint.load_layer(name)
        (entry,) = (each for each in checkpoint.layers if each.name == name)
        (place,) = (each for each in checkpoint.segment_places()[0] if each.name == f"{name}/level0/scale")
        begin = place.begin - checkpoint.segment_places()[0][0].begin
        packed = checkpoint.segment(0)[begin : begin + place.count * 4].view("<f4")[: entry.rows]
        self.scales = np.empty(entry.rows, np.float32)
        order = self._nested.permutation
        self.scales[slice(None) if order is None else order] = packed
        q = self._nested.at(NEVER - 1) / self.scales[:, None]
        self._q = np.rint(q).astype(np.int8)
        np.testing.assert_allclose(q, self._q, rtol=1e-5)

    def weight(self, level: int) -> NDArray[np.int8]:
        """(O, K) whole numbers that a level keeps."""
        return np.where(self._nested.mask(level), self._q, np.int8(0))


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _range(attributes: Mapping[str, Any], of: str, level: int) -> Range:
    return Range(np.float32(attributes[f"{of}_scale"][level]), attributes[f"{of}_zero"][level])


def _window(attributes: Mapping[str, Any], spatial: int) -> Window:
    """The window over so many dimensions; nodes have two or three, the first of one row where an image has one."""
    first, pads = max(0, 2 - spatial), attributes["pads"]
    sizes = len(pads) // 2
    return Window(
        attributes["kernel_shape"][first:],
        attributes["strides"][first:],
        [*pads[first:sizes], *pads[sizes + first :]],
        attributes["dilations"][first:],
    )
