"""Conversion: a place in a graph where images change between float32 and u8, which costs time at each run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..wire import Wire
from . import onnx_schema as onnx
from .contract import DEQUANTIZE, DOMAIN, QUANTIZE


@dataclass(frozen=True, slots=True)
class Conversion:
    """One node that converts.

    to_u8: whether it makes bytes of floats, else floats of bytes.
    source: the node that makes its input, or the graph's input of that name. readers: the nodes that read its output,
        or the graph's output of that name. Nodes without a name are called by their operator.
    """

    to_u8: bool
    source: str
    readers: tuple[str, ...]


def conversions(graph: bytes) -> list[Conversion]:
    """The conversions of a ModelProto that `check_graph` has passed, in its order."""
    wire = Wire()
    model = wire.read(memoryview(graph), "ModelProto", onnx.MODEL)
    nodes = list(_nodes(wire, model["graph"]))
    makers = {name: _name(node) for node in nodes for name in node["output"]}
    readers: dict[str, list[str]] = {}
    for node in nodes:
        for name in node["input"]:
            readers.setdefault(name, []).append(_name(node))
    return [
        Conversion(
            to_u8=node["op_type"] == QUANTIZE,
            source=makers.get(node["input"][0], node["input"][0]),
            readers=tuple(readers.get(node["output"][0], node["output"][:1])),
        )
        for node in nodes
        if node.get("domain") == DOMAIN and node["op_type"] in (QUANTIZE, DEQUANTIZE) and node["input"]
    ]


def _nodes(wire: Wire, data: memoryview) -> Iterator[dict[str, Any]]:
    """The nodes of a graph, and of the graphs within it."""
    for each in wire.read(data, "GraphProto", onnx.GRAPH)["node"]:
        node = wire.read(each, "NodeProto", onnx.NODE)
        yield node
        for attribute in node["attribute"]:
            inner = wire.read(attribute, "AttributeProto", onnx.ATTRIBUTE).get("g")
            if inner is not None:
                yield from _nodes(wire, inner)


def _name(node: dict[str, Any]) -> str:
    return str(node.get("name") or node["op_type"])
