"""Integer graph: the graph of an int8 file, node after node by the integer reference, from the file's own arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import integer_reference as reference
import numpy as np
import onnx
from integer_reference import Convolution, Image, Linear, Range, Table, Window
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import load_file

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.places import tensor_name
from nested_sparse.weight import NestedWeight

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Layer:
    """The arrays of a layer in a file: q · scale as float32, the row scales (O,), norms (L, 2, O)."""

    weight: NestedWeight
    scales: NDArray[np.float32]
    norms: NDArray[np.float32]

    def at(self, level: int) -> NDArray[np.int8]:
        """(O, K) whole numbers of a level."""
        return np.rint(self.weight.at(level) / self.scales[:, None]).astype(np.int8)


@dataclass(frozen=True)
class Fall:
    """A run at level `start` that falls to `end` before the layer `at`. order: the layers as they run."""

    start: int
    end: int
    at: str
    order: Sequence[str]

    def falls_at(self, layer: str) -> bool:
        """Whether the layer runs at the lower level."""
        return self.order.index(layer) >= self.order.index(self.at)


@dataclass(frozen=True)
class IntegerGraph:
    """A file of int8 layers alone."""

    model: onnx.ModelProto
    layers: Mapping[str, Layer]

    @staticmethod
    def open(path: Path) -> IntegerGraph:
        """Of the file at `path`."""
        layers, stored = {}, load_file(path)
        with Checkpoint.open(path) as checkpoint:
            model = onnx.load_from_string(checkpoint.graph())
            for info in checkpoint.layers:
                weight, norms = checkpoint.load_layer(info.name)
                packed = stored[tensor_name(info.name, 0, "scale")][: weight.rows]
                scales = np.empty(weight.rows, np.float32)
                scales[slice(None) if weight.permutation is None else weight.permutation] = packed
                layers[info.name] = Layer(weight, scales, norms)
        return IntegerGraph(model, layers)

    def run(self, feeds: Arrays, level: int, fall: Fall | None = None) -> dict[str, NDArray[Any]]:
        """The outputs at `level`, or of a run that falls on its way.

        A node without a layer that reads the level is taken to run after the layers that it depends on, and before all
        others.
        """
        values: dict[str, Any] = {**feeds, **{each.name: onnx.numpy_helper.to_array(each) for each in self._constants}}
        fallen: set[str] = set()
        for node in self.model.graph.node:
            given = [values.get(name) for name in node.input]
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            layer = attributes["layer"].decode() if "layer" in attributes else None
            low = not fallen.isdisjoint(node.input)
            if fall is not None and layer is not None:
                low = fall.falls_at(layer)
            if low:
                fallen.update(node.output)
            now = level if fall is None else fall.end if low else fall.start
            if node.domain == "nested_sparse":
                values[node.output[0]] = self._ours(node.op_type, given, _At(attributes, now), layer)
            else:
                values |= zip(node.output, _others(self.model, node, values), strict=True)
        return {output.name: values[output.name] for output in self.model.graph.output}

    @property
    def _constants(self) -> Sequence[onnx.TensorProto]:
        return self.model.graph.initializer

    def _ours(self, operator: str, given: Sequence[Any], node: _At, layer: str | None) -> Any:
        if layer is not None:
            return self._layer(operator, given[0], given[2], node, self.layers[layer])
        return _IMAGES[operator](given, node)

    def _layer(self, operator: str, x: Any, residual: Any, node: _At, layer: Layer) -> Any:
        weight, norm = layer.at(node.level), layer.norms[node.level]
        if operator == "QuantizedLinear":
            held = {b"static": node.range("x"), b"dynamic": None}[node.attributes["activations"]]
            return Linear(weight, layer.scales, norm, held, node.limits)(x, residual)
        assert operator == "QuantizedConv"
        groups, y = node.attributes.get("groups", 1), node.range("y")
        assert y is not None
        return Convolution(weight, layer.scales, norm, node.window, y, groups, node.limits, node.table)(x, residual)


@dataclass(frozen=True)
class _At:
    """A node's attributes, at a level."""

    attributes: Mapping[str, Any]
    level: int

    def range(self, name: str) -> Range | None:
        if f"{name}_scale" not in self.attributes:
            return None
        scale, zero = (self.attributes[f"{name}_{part}"][self.level] for part in ("scale", "zero"))
        return Range(np.float32(scale), int(zero))

    @property
    def limits(self) -> tuple[float, float]:
        return self.attributes["clip_min"], self.attributes["clip_max"]

    @property
    def window(self) -> Window:
        return Window(*(self.attributes[name] for name in ("kernel_shape", "strides", "pads", "dilations")))

    @property
    def table(self) -> Table | None:
        if "table" not in self.attributes:
            return None
        entries = np.frombuffer(self.attributes["table"], np.uint8).reshape(-1, 256)[self.level]
        sums = self.range("sum")
        assert sums is not None
        return Table(sums, entries)

    def floats(self, data: NDArray[np.float32]) -> NDArray[np.float32]:
        """Without the row of an image that is a line."""
        return data.squeeze(2) if self.attributes["spatial_dimensions"] == 1 else data


def _quantised(x: NDArray[np.float32], node: _At) -> Image:
    held = node.range("y")
    assert held is not None
    data = reference.quantise(x, held)
    return Image(data if data.ndim == 4 else data[:, :, None, :], held)


_IMAGES: Mapping[str, Callable[[Sequence[Any], _At], Any]] = {
    "QuantizeImage": lambda given, node: _quantised(given[0], node),
    "DequantizeImage": lambda given, node: node.floats(reference.dequantise(given[0])),
    "QuantizedMaxPool": lambda given, node: reference.max_pool(given[0], node.window),
    "QuantizedAveragePool": lambda given, node: reference.average_pool(
        given[0], node.window, bool(node.attributes["count_include_pad"])
    ),
    "QuantizedGlobalAveragePool": lambda given, node: node.floats(reference.global_average_pool(given[0])),
    "QuantizedAdd": lambda given, node: reference.add(given[0], given[1], node.range("y"), node.limits),  # type: ignore[arg-type]
    "QuantizedMultiply": lambda given, node: reference.multiply(given[0], given[1], node.range("y"), node.limits),  # type: ignore[arg-type]
}


def _others(model: onnx.ModelProto, node: onnx.NodeProto, values: Mapping[str, Any]) -> Sequence[NDArray[Any]]:
    """A node of ONNX's own, by onnx's evaluator: only such as move values are exact."""
    assert node.op_type in ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Concat", "Transpose")
    names = [name for name in node.input if name]
    infos = [onnx.helper.make_tensor_value_info(name, 0, None) for name in names]
    outputs = [onnx.helper.make_tensor_value_info(name, 0, None) for name in node.output]
    graph = onnx.helper.make_graph([node], "node", infos, outputs)
    opsets = [each for each in model.opset_import if each.domain == ""]
    alone = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    answers: Sequence[NDArray[Any]] = ReferenceEvaluator(alone).run(None, {name: values[name] for name in names})
    return answers
