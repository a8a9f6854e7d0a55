"""Encoding: pieces of protobuf messages, written and replaced without the onnx package. All other bytes are copied."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from ..wire import BYTES, VARINT, WIDTHS, Schema, WireError, varint
from . import onnx_schema as onnx

Value = int | float | str | list[int]
_TYPES = {name: number for number, name in onnx.ATTRIBUTE_TYPES.items()}
_DATA_TYPES = {"float32": 1, "int64": 7}
"""TensorProto.data_type by numpy's name."""


def changed(
    data: memoryview, schema: Schema, name: str, change: Callable[[memoryview], bytes | memoryview | None]
) -> bytes:
    """The message with each of its fields `name`, a message, replaced by `change` of it; None takes it away."""
    number = number_of(schema, name)
    pieces: list[bytes | memoryview] = []
    for found, begin, value, end in fields(data):
        if found != number:
            pieces.append(data[begin:end])
            continue
        new = change(data[value:end])
        if new is not None:
            pieces.append(field(schema, name, new))
    return b"".join(pieces)


def fields(data: memoryview) -> Iterator[tuple[int, int, int, int]]:
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


def field(schema: Schema, name: str, value: bytes | memoryview) -> bytes:
    """A field of bytes."""
    return numbered(number_of(schema, name), value)


def numbered(number: int, value: bytes | memoryview) -> bytes:
    """A field of bytes by its number."""
    return varint_bytes(number << 3 | BYTES) + varint_bytes(len(value)) + bytes(value)


def number_of(schema: Schema, name: str) -> int:
    """The number of the field `name`."""
    return next(number for number, each in schema.items() if each.name == name)


def varint_bytes(value: int) -> bytes:
    """An int64 as a varint."""
    rest, encoded = value & ((1 << 64) - 1), bytearray()
    while rest > 127:
        encoded.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*encoded, rest])


def integer_field(number: int, value: int) -> bytes:
    """A field of one integer by its number."""
    return varint_bytes(number << 3 | VARINT) + varint_bytes(value)


def attribute(name: str, value: Value) -> bytes:
    """An AttributeProto of a whole number, a float, a text or a list of whole numbers."""
    kind = next(
        kind for kind, held in (("ints", list), ("f", float), ("s", str), ("i", int)) if isinstance(value, held)
    )
    number = number_of(onnx.ATTRIBUTE, kind)
    if isinstance(value, float):
        values = varint_bytes(number << 3 | 5) + struct.pack("<f", value)
    elif isinstance(value, str):
        values = numbered(number, value.encode())
    else:
        values = b"".join(integer_field(number, each) for each in (value if isinstance(value, list) else [value]))
    type_field = integer_field(number_of(onnx.ATTRIBUTE, "type"), _TYPES[kind])
    return field(onnx.ATTRIBUTE, "name", name.encode()) + values + type_field


def node(
    operator: str, inputs: list[str], outputs: list[str], name: str, attributes: Mapping[str, Value], domain: str = ""
) -> bytes:
    """A NodeProto; of ONNX's own domain, which has no name, unless another one is given."""
    return b"".join(
        [
            *(field(onnx.NODE, "input", each.encode()) for each in inputs),
            *(field(onnx.NODE, "output", each.encode()) for each in outputs),
            field(onnx.NODE, "name", name.encode()),
            field(onnx.NODE, "op_type", operator.encode()),
            *([field(onnx.NODE, "domain", domain.encode())] if domain else []),
            *(field(onnx.NODE, "attribute", attribute(key, value)) for key, value in attributes.items()),
        ]
    )


def tensor(name: str, values: NDArray[np.generic]) -> bytes:
    """A TensorProto of float32 or int64."""
    return b"".join(
        [
            *(integer_field(number_of(onnx.TENSOR, "dims"), size) for size in values.shape),
            integer_field(number_of(onnx.TENSOR, "data_type"), _DATA_TYPES[values.dtype.name]),
            field(onnx.TENSOR, "name", name.encode()),
            field(onnx.TENSOR, "raw_data", np.ascontiguousarray(values).tobytes()),
        ]
    )
