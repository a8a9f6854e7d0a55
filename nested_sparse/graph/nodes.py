"""GraphNode: a node of a checkpoint's graph, for those who ask after the graph without the onnx package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..wire import Wire
from . import onnx_schema as onnx


@dataclass(frozen=True, slots=True)
class GraphNode:
    """One node. name: its own; where it has none, its operator. texts: attributes that are texts, by name."""

    name: str
    operator: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    texts: Mapping[str, bytes]


def graph_nodes(graph: bytes) -> list[GraphNode]:
    """The nodes of a ModelProto that `check_graph` has passed, in its order; those of a graph within a node follow it.

    Raises WireError where it is another.
    """
    wire = Wire()
    return list(_nodes(wire, wire.read(memoryview(graph), "ModelProto", onnx.MODEL)["graph"]))


def _nodes(wire: Wire, data: memoryview) -> Iterator[GraphNode]:
    for each in wire.read(data, "GraphProto", onnx.GRAPH)["node"]:
        node = wire.read(each, "NodeProto", onnx.NODE)
        attributes = [wire.read(given, "AttributeProto", onnx.ATTRIBUTE) for given in node["attribute"]]
        yield GraphNode(
            name=node.get("name") or node["op_type"],
            operator=node["op_type"],
            domain=node.get("domain", ""),
            inputs=tuple(node["input"]),
            outputs=tuple(node["output"]),
            texts={given["name"]: bytes(given["s"]) for given in attributes if "s" in given},
        )
        for given in attributes:
            if "g" in given:
                yield from _nodes(wire, given["g"])
