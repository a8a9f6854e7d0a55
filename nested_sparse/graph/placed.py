"""placed: a checkpoint's graph with other places of its layers' arrays, made without the onnx package.

A graph that is used for other weights differs in nothing but the attributes that say where the arrays of a layer lie.
All other bytes are copied.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..placement import LayerPlacement
from ..wire import Wire, integer_count
from . import onnx_schema as onnx
from .contract import DOMAIN, LAYER, LAYER_OPERATORS, PLACEMENT
from .encoding import attribute, changed, field


def placed(graph: bytes, placements: Mapping[str, LayerPlacement]) -> bytes:
    """`graph`, a ModelProto that `check_graph` has passed, whose layers' arrays lie where `placements` say, by name.

    Lists of places have as many levels as before: where `placements` have fewer, as in a slice, zeros follow.
    Raises WireError where `graph` is another message, KeyError where a layer has no placement.
    """
    return _Placed(placements).model(memoryview(graph))


class _Placed:
    def __init__(self, placements: Mapping[str, LayerPlacement]) -> None:
        self._placements = placements
        self._wire = Wire()

    def model(self, data: memoryview) -> bytes:
        return changed(data, onnx.MODEL, "graph", self._graph)

    def _graph(self, data: memoryview) -> bytes:
        return changed(data, onnx.GRAPH, "node", self._node)

    def _node(self, data: memoryview) -> bytes:
        node = self._wire.read(data, "NodeProto", onnx.NODE)
        if node.get("domain") != DOMAIN or node.get("op_type") not in LAYER_OPERATORS:
            return changed(data, onnx.NODE, "attribute", lambda each: changed(each, onnx.ATTRIBUTE, "g", self._graph))
        attributes = [self._wire.read(each, "AttributeProto", onnx.ATTRIBUTE) for each in node["attribute"]]
        held = {each["name"]: each for each in attributes}
        placement = self._placements[bytes(held[LAYER]["s"]).decode()]
        kept = changed(data, onnx.NODE, "attribute", lambda each: None if self._name(each) in PLACEMENT else each)
        return kept + b"".join(
            field(onnx.NODE, "attribute", attribute(name, _list_as_long(getattr(placement, name), held.get(name, {}))))
            for name, known in PLACEMENT.items()
            if getattr(placement, name) != known.default  # left out, as the exporter does
        )

    def _name(self, data: memoryview) -> str:
        return str(self._wire.read(data, "AttributeProto", onnx.ATTRIBUTE)["name"])


def _list_as_long(value: int | list[int], before: Mapping[str, list[memoryview]]) -> int | list[int]:
    """`value`, a list made no shorter than the one `before`."""
    if not isinstance(value, list):
        return value
    return [*value, *[0] * (integer_count(before.get("ints", [])) - len(value))]
