"""densified: a checkpoint's graph in which some layers are ordinary nodes of ONNX, made without the onnx package.

So a device can measure what ONNX Runtime takes for the dense weight of a layer, in the layer's place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..wire import Wire, float_value, float_values, integers
from . import onnx_schema as onnx
from .contract import (
    ATTENTION,
    CONV,
    CONV_TRANSPOSE,
    DOMAIN,
    INPUT_TILED,
    LAYER,
    LINEAR,
    MAX_POOL,
    NORM,
    RESIDUAL_INPUT,
    WINDOW,
    X_INPUT,
    Y_TILED,
    is_runtime_input,
    untiled_shape,
)
from .dense_attention import DenseAttention
from .dense_nodes import DenseLayer, ReadNode, Replacement, input_of
from .dense_recurrence import OPERATORS as RECURRENCES
from .dense_recurrence import DenseRecurrence, projections
from .encoding import changed, field, fields, integer_field, node, numbered, tensor
from .nodes import graph_nodes
from .told_shapes import Shape, inner, text, told_shapes

OPERATORS = (CONV, CONV_TRANSPOSE, LINEAR)
"""Operators with a counterpart of ONNX's. That of a recurrent layer takes the place of two (DenseRecurrence)."""
_MOST_NUMBERS = 1 << 16
_FLOAT = 1


def replaceable(graph: bytes) -> list[tuple[str, ...]]:
    """Names of the layers that `densified` can replace, in the order of the graph, which `check_graph` has passed.

    Each is alone, but for the two layers of a recurrent one, which are replaced together; that of the inputs is first.
    """
    nodes, of_inputs = _recurrent(graph)
    units: Counter[tuple[str, ...]] = Counter()
    for each in nodes:
        if each["op_type"] in RECURRENCES and each["input"][X_INPUT] in of_inputs:
            units[_layer(of_inputs[each["input"][X_INPUT]]), _layer(each)] += 1
        elif each["op_type"] in OPERATORS and each["output"][0] not in of_inputs:
            units[_layer(each),] += 1
    everywhere = Counter(each.texts[LAYER].decode() for each in graph_nodes(graph) if LAYER in each.texts)
    return [names for names, count in units.items() if all(name and count == everywhere[name] for name in names)]


def densified(graph: bytes, layers: Mapping[str, DenseLayer], *, alone: bool = False) -> bytes:
    """`graph`, a ModelProto that `check_graph` has passed, with nodes of ONNX in place of those of `layers`.

    layers: by name, those of some of `replaceable(graph)`. The names of their nodes begin with `mark(graph)`, the place
    of the layer in `layers`, and a point; where two are replaced together, it is the place of the last one.
    alone: whether no node of ours is left, so that the graph needs no inputs but the model's own.
    """
    _, of_inputs = _recurrent(graph)
    replaced = {value: read for value, read in of_inputs.items() if _layer(read) in layers}
    return changed(
        memoryview(graph),
        onnx.MODEL,
        "graph",
        lambda each: _Densified(layers, replaced, mark(graph), alone).graph(each),
    )


def mark(graph: bytes) -> str:
    """A word with which no name in the graph begins."""
    names = {name for each in graph_nodes(graph) for name in (each.name, *each.inputs, *each.outputs)}
    word = "dense"
    while any(name.startswith(word) for name in names):
        word += "_"
    return word


def _recurrent(graph: bytes) -> tuple[list[ReadNode], dict[str, ReadNode]]:
    """The outer nodes of ours, and those of them that multiply the inputs of recurrent layers, by what they write."""
    wire, reader = Wire(), _Reader()
    found = wire.read(wire.read(memoryview(graph), "ModelProto", onnx.MODEL)["graph"], "GraphProto", onnx.GRAPH)
    nodes = [each for each in map(reader.node, found["node"]) if each["ours"]]
    reads = Counter(name for each in graph_nodes(graph) for name in each.inputs)
    return nodes, projections(nodes, reads, [text(each, 1) for each in found["output"]])


class _Reader:
    """Reads nodes; the value of each attribute stands under its name in "values"."""

    def __init__(self) -> None:
        self._wire = Wire()

    def node(self, data: memoryview) -> ReadNode:
        read = self._wire.read(data, "NodeProto", onnx.NODE)
        ours = read.get("domain") == DOMAIN
        attributes = [self._wire.read(each, "AttributeProto", onnx.ATTRIBUTE) for each in read["attribute"] if ours]
        return {**read, "ours": ours, "values": {each["name"]: _value(each) for each in attributes}}


def _value(attribute: Mapping[str, Any]) -> Any:
    if attribute["ints"]:
        return integers(attribute["ints"], _MOST_NUMBERS)
    if "f" in attribute:
        return float_value(attribute["f"])
    if attribute["floats"]:
        return float_values(attribute["floats"])
    return bytes(attribute["s"]).decode(errors="replace") if "s" in attribute else attribute.get("i", 0)


def _layer(read: ReadNode) -> str:
    """The layer of a node of ours; "" of other nodes."""
    return str(read["values"].get(LAYER, "")) if read["ours"] else ""


class _Densified:
    """The new graph.

    of_inputs: by what they write, the nodes that multiply the inputs of recurrent layers that are replaced.
    """

    def __init__(
        self, layers: Mapping[str, DenseLayer], of_inputs: Mapping[str, ReadNode], word: str, alone: bool
    ) -> None:
        self._layers, self._of_inputs, self._mark, self._alone = layers, of_inputs, word, alone
        self._places = {name: place for place, name in enumerate(layers)}
        self._reader = _Reader()
        self._initializers: dict[str, NDArray[np.generic]] = {}
        self._shapes: dict[str, Shape] = {}
        self._tiled: set[str] = set()
        self._untiled: set[str] = set()
        self._count = 0

    def graph(self, data: memoryview) -> bytes:
        """A GraphProto."""
        number = {name: next(n for n, each in onnx.GRAPH.items() if each.name == name) for name in _GRAPH_FIELDS}
        found = [(found, data[begin:end], data[value:end]) for found, begin, value, end in fields(data)]
        nodes = [self._reader.node(each) for at, _, each in found if at == number["node"]]
        self._shapes = told_shapes(data)
        self._tiled = {image for each in nodes for image in _tiled_images(each)}
        self._untiled = self._untiled_images(nodes)
        pieces: list[bytes | memoryview] = []
        for at, whole, value in found:
            if at == number["node"]:
                pieces += [field(onnx.GRAPH, "node", each) for each in self._nodes(value)]
            elif at == number["value_info"]:
                pieces.append(field(onnx.GRAPH, "value_info", self._value_info(value)))
            elif at != number["input"] or not (self._alone and is_runtime_input(text(value, 1))):
                pieces.append(whole)
        pieces += [
            field(onnx.GRAPH, "initializer", tensor(name, values)) for name, values in self._initializers.items()
        ]
        return b"".join(pieces)

    def _untiled_images(self, nodes: list[ReadNode]) -> set[str]:
        """The tiled images that a node of ONNX's will write or read."""
        found: set[str] = set()
        for each in nodes:
            dense = self._layers.get(_layer(each))
            if self._alone or dense is not None:
                found |= _tiled_images(each)
            if dense is not None and len(dense.norms) > 1 and not self._alone and not input_of(each, RESIDUAL_INPUT):
                found -= {each["output"][0]}  # a norm of ours is behind it
        for each in nodes:
            if _layer(each) in self._layers:  # what it reads cannot stay tiled, whatever writes it
                found |= _tiled_images(each) - {each["output"][0]}
        pools = [{each["input"][0], each["output"][0]} for each in nodes if _is_pool(each)]
        while more := {name for images in pools if images & found for name in images} - found:
            found |= more
        return found

    def _nodes(self, data: memoryview) -> list[bytes | memoryview]:
        """The nodes that stand in the place of one."""
        read = self._reader.node(data)
        if not read["ours"]:
            return [data]
        if read["output"][0] in self._of_inputs:
            return []
        if read["op_type"] in RECURRENCES and read["input"][X_INPUT] in self._of_inputs:
            projection = self._of_inputs[read["input"][X_INPUT]]
            halves = [self._layers[_layer(each)] for each in (projection, read)]
            return DenseRecurrence(self, projection, read, halves).nodes()
        if _layer(read) in self._layers:
            return Replacement(self, read, _layer(read), self._layers[_layer(read)]).nodes()
        if self._alone and read["op_type"] == NORM:
            return Replacement(self, read, "", None).of_norm()
        if self._alone and read["op_type"] == ATTENTION:
            return DenseAttention(self, read).nodes()
        if not self._untiled.intersection([*read["input"], *read["output"]]):
            return [data]
        if _is_pool(read):
            window = {name: read["values"][name] for name in WINDOW}
            return [node("MaxPool", read["input"][:1], read["output"], read.get("name", ""), window)]
        dropped = {name for place, name in INPUT_TILED.items() if input_of(read, place) in self._untiled}
        if read["output"][0] in self._untiled:
            dropped.add(Y_TILED)
        return [changed(data, onnx.NODE, "attribute", lambda each: None if text(each, 1) in dropped else each)]

    def _value_info(self, data: memoryview) -> bytes | memoryview:
        """The shape of an image that is tiled no longer, as its dimension's name tells it."""
        name = text(data, 1)
        if name not in self._untiled:
            return data
        shape = untiled_shape([text(inner(data, 2, 1, 2, 1), 2)])
        dimensions = b"".join(
            numbered(1, integer_field(1, size) if isinstance(size, int) else numbered(2, size.encode()))
            for size in shape
        )
        kind = numbered(1, integer_field(1, _FLOAT) + numbered(2, dimensions))
        return numbered(1, name.encode()) + numbered(2, kind)

    def name(self, layer: str, step: str) -> str:
        """A new name that begins with the mark and the layer's place."""
        self._count += 1
        return f"{self._mark}{self._places.get(layer, '')}.{self._count}.{step}"

    def shape(self, value: str) -> Shape | None:
        """That of a tensor; None of a scalar, and where the graph does not tell."""
        return self._shapes.get(value)

    def tiled(self, image: str) -> bool:
        """Whether an image that was tiled stays so."""
        return image in self._tiled and image not in self._untiled

    def initializer(self, name: str, values: NDArray[np.generic]) -> str:
        """The name in the graph of a constant, which is made once."""
        name = f"{self._mark}.{name}"
        self._initializers.setdefault(name, values)
        return name


_GRAPH_FIELDS = ("node", "input", "value_info")


def _is_pool(read: ReadNode) -> bool:
    return bool(read["ours"] and read["op_type"] == MAX_POOL)


def _tiled_images(read: ReadNode) -> set[str]:
    """The images that a layer's node reads or writes in tiles."""
    values = read["values"]
    found = {input_of(read, place) for place, name in INPUT_TILED.items() if values.get(name)}
    return found | ({read["output"][0]} if values.get(Y_TILED) else set())
