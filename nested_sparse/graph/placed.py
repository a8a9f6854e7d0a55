"""placed: a checkpoint's graph with other places of its layers' arrays, made without the onnx package.

A graph that is used for other weights differs in nothing but the attributes that say where the arrays of a layer lie.
All other bytes are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ..placement import LayerPlacement
from ..wire import BYTES, VARINT, WIDTHS, Schema, Wire, WireError, integer_count, varint
from . import onnx_schema as onnx
from .contract import DOMAIN, LAYER, LAYER_OPERATORS, PLACEMENT

_TYPES = {name: number for number, name in onnx.ATTRIBUTE_TYPES.items()}


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
        return _changed(data, onnx.MODEL, "graph", self._graph)

    def _graph(self, data: memoryview) -> bytes:
        return _changed(data, onnx.GRAPH, "node", self._node)

    def _node(self, data: memoryview) -> bytes:
        node = self._wire.read(data, "NodeProto", onnx.NODE)
        if node.get("domain") != DOMAIN or node.get("op_type") not in LAYER_OPERATORS:
            return _changed(data, onnx.NODE, "attribute", lambda each: _changed(each, onnx.ATTRIBUTE, "g", self._graph))
        attributes = [self._wire.read(each, "AttributeProto", onnx.ATTRIBUTE) for each in node["attribute"]]
        held = {each["name"]: each for each in attributes}
        placement = self._placements[bytes(held[LAYER]["s"]).decode()]
        kept = _changed(data, onnx.NODE, "attribute", lambda each: None if self._name(each) in PLACEMENT else each)
        return kept + b"".join(
            _field(onnx.NODE, "attribute", _attribute(name, getattr(placement, name), held.get(name, {})))
            for name, attribute in PLACEMENT.items()
            if getattr(placement, name) != attribute.default  # left out, as the exporter does
        )

    def _name(self, data: memoryview) -> str:
        return str(self._wire.read(data, "AttributeProto", onnx.ATTRIBUTE)["name"])


def _attribute(name: str, value: int | list[int], before: Mapping[str, list[memoryview]]) -> bytes:
    """An AttributeProto of a whole number, or of a list that is no shorter than the one `before`."""
    kind = "ints" if isinstance(value, list) else "i"
    numbers = value if isinstance(value, list) else [value]
    if isinstance(value, list):
        numbers = [*value, *[0] * (integer_count(before.get("ints", [])) - len(value))]
    tag = _number(onnx.ATTRIBUTE, kind) << 3 | VARINT
    values = b"".join(_varint(tag) + _varint(number) for number in numbers)
    type_tag = _varint(_number(onnx.ATTRIBUTE, "type") << 3 | VARINT)
    return _field(onnx.ATTRIBUTE, "name", name.encode()) + values + type_tag + _varint(_TYPES[kind])


def _changed(
    data: memoryview, schema: Schema, name: str, change: Callable[[memoryview], bytes | memoryview | None]
) -> bytes:
    """The message with each of its fields `name`, a message, replaced by `change` of it; None takes it away."""
    number = _number(schema, name)
    pieces: list[bytes | memoryview] = []
    for found, begin, value, end in _fields(data):
        if found != number:
            pieces.append(data[begin:end])
            continue
        changed = change(data[value:end])
        if changed is not None:
            pieces.append(_field(schema, name, changed))
    return b"".join(pieces)


def _fields(data: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Number, begin, begin of the value, and end of each field of a message. Raises WireError."""
    at = 0
    while at < len(data):
        begin = at
        key, at = varint(data, at, len(data))
        if key & 7 == VARINT:
            value, (_, at) = at, varint(data, at, len(data))
        elif key & 7 == BYTES:
            nbytes, value = varint(data, at, len(data))
            at = value + nbytes
        else:
            value, at = at, at + WIDTHS.get(key & 7, len(data))
        if at > len(data):
            raise WireError("is cut off, or is not a protobuf message")
        yield key >> 3, begin, value, at


def _field(schema: Schema, name: str, value: bytes | memoryview) -> bytes:
    """A field of bytes."""
    return _varint(_number(schema, name) << 3 | BYTES) + _varint(len(value)) + bytes(value)


def _number(schema: Schema, name: str) -> int:
    return next(number for number, field in schema.items() if field.name == name)


def _varint(value: int) -> bytes:
    """An int64 as a varint."""
    rest, encoded = value & ((1 << 64) - 1), bytearray()
    while rest > 127:
        encoded.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*encoded, rest])
