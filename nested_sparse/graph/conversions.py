"""Conversion: a place in a graph where images change between float32 and u8, which costs time at each run."""

from __future__ import annotations

from dataclasses import dataclass

from .contract import DEQUANTIZE, DOMAIN, QUANTIZE
from .nodes import graph_nodes


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
    nodes = graph_nodes(graph)
    makers = {name: node.name for node in nodes for name in node.outputs}
    readers: dict[str, list[str]] = {}
    for node in nodes:
        for name in dict.fromkeys(node.inputs):  # a block may take its input as its residual, too
            readers.setdefault(name, []).append(node.name)
    return [
        Conversion(
            to_u8=node.operator == QUANTIZE,
            source=makers.get(node.inputs[0], node.inputs[0]),
            readers=tuple(readers.get(node.outputs[0], node.outputs[:1])),
        )
        for node in nodes
        if node.domain == DOMAIN and node.operator in (QUANTIZE, DEQUANTIZE) and node.inputs
    ]
