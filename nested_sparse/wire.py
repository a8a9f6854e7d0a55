"""Wire: the wire format of protobuf, read strictly and within bounds, from an untrusted file.

A device that serves has no onnx package, and the parser of protobuf makes objects of hundreds of bytes from an empty
message of two bytes. Here a message is a dict of its own fields. Messages within it stay bytes until they are read, and
all fields of a file are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_FIELDS = 500_000
"""Most fields of all messages that are read in a file, which takes some two seconds. A node of ours has 50 fields,
others have about 15."""
MAX_UNREAD_NBYTES = 1 << 24
"""Most bytes of types and comments, which are not read here but become objects in ONNX Runtime; a node has some 50."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf's encoding, https://protobuf.dev/programming-guides/encoding."""
WIDTHS = {FIXED64: 8, FIXED32: 4}


class WireError(ValueError):
    """The bytes are not this message, or no known writer writes it this way."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message. `kind` says how a Wire reads its value:

    "integer": int, signed. "text": str. "bytes": memoryview, of messages too. "fixed32": memoryview of 4 bytes.
    "integers", "fixed32s", "fixed64s": lists of memoryviews, one for each piece that holds numbers, packed or not.
    "texts", "messages": lists. "unread": the value is skipped. "refused": a message with this field is refused.
    """

    name: str
    kind: str


Schema = Mapping[int, Field]
_LISTS = frozenset({"texts", "messages", "integers", "fixed32s", "fixed64s"})
_TYPES = {"integer": VARINT, "integers": VARINT, "fixed32": FIXED32, "fixed32s": FIXED32, "fixed64s": FIXED64}
_PACKED = frozenset({"integers", "fixed32s", "fixed64s"})


class Wire:
    """Reads the messages of one file. Raises WireError."""

    def __init__(self, max_fields: int = MAX_FIELDS) -> None:
        self._left = max_fields
        self._unread = MAX_UNREAD_NBYTES

    def read(self, data: memoryview, message: str, schema: Schema) -> dict[str, Any]:
        """Fields of one message by name. Lists may be empty; other fields may be absent. Unknown fields are refused."""
        found: dict[str, Any] = {field.name: [] for field in schema.values() if field.kind in _LISTS}
        at, end = 0, len(data)
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise WireError("has more fields than any model needs")
            key, at = (data[at], at + 1) if data[at] < 128 else varint(data, at, len(data))
            number, wire_type = key >> 3, key & 7
            field = schema.get(number)
            if field is None:
                raise WireError(f"has a field {number} of {message} that this version does not know")
            if field.kind == "refused":
                raise WireError(f"holds {message}.{field.name}, which a checkpoint may not")
            begin = at
            at, value = _value(data, at, wire_type)
            if field.kind == "unread":
                self._unread -= at - begin
                if self._unread < 0:
                    raise WireError(f"has more than {MAX_UNREAD_NBYTES} bytes of types and comments")
                continue
            packed = wire_type == BYTES and field.kind in _PACKED
            if not packed and wire_type != _TYPES.get(field.kind, BYTES):
                raise WireError(f"has a {message}.{field.name} of another type than ONNX's")
            if field.kind in _PACKED:
                found[field.name].append(value if packed else data[begin:at])
            elif field.kind in _LISTS:
                found[field.name].append(_text(value) if field.kind == "texts" else value)
            elif field.name in found:
                raise WireError(f"has two {message}.{field.name} where ONNX has one")
            else:
                found[field.name] = _text(value) if field.kind == "text" else value
        return found


def integers(pieces: list[memoryview], most: int) -> list[int]:
    """The numbers of an "integers" field, signed. Raises WireError where there are more than `most`."""
    numbers: list[int] = []
    for piece in pieces:
        at = 0
        while at < len(piece):
            value, at = varint(piece, at, len(piece))
            numbers.append(signed(value))
            if len(numbers) > most:
                raise WireError(f"has a list of more than {most} numbers")
    return numbers


def float_values(pieces: list[memoryview]) -> NDArray[np.float32]:
    """The numbers of a "fixed32s" field, as float32. Raises WireError."""
    data = b"".join(pieces)
    if len(data) % WIDTHS[FIXED32]:
        raise WireError("has a list of floats that is cut off")
    return np.frombuffer(data, "<f4")


def float_value(data: memoryview | None) -> float:
    """The number of a "fixed32" field; 0 where the file leaves it out."""
    return 0.0 if data is None else float(np.frombuffer(data, "<f4")[0])


def integer_count(pieces: list[memoryview]) -> int:
    """Count of the numbers of an "integers" field: each number ends in a byte below 128."""
    return sum(int((np.frombuffer(piece, np.uint8) < 128).sum()) for piece in pieces)


def signed(value: int) -> int:
    """The int64 that a varint stands for."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _value(data: memoryview, at: int, wire_type: int) -> tuple[int, Any]:
    """Position where the value ends, and the value."""
    if wire_type == VARINT:
        value, at = varint(data, at, len(data))
        return at, signed(value)
    if wire_type == BYTES:
        nbytes, at = varint(data, at, len(data))
    elif wire_type in WIDTHS:
        nbytes = WIDTHS[wire_type]
    else:
        raise WireError("is not a protobuf message")
    if nbytes > len(data) - at:
        raise WireError("is cut off, or is not a protobuf message")
    return at + nbytes, data[at : at + nbytes]


def varint(data: bytes | memoryview, at: int, end: int) -> tuple[int, int]:
    """The number at position `at`, as a uint64, and the position where it ends, at most `end`. Raises WireError."""
    value = shift = 0
    while at < end and shift < 70:  # ten bytes at most
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & ((1 << 64) - 1), at
        shift += 7
    raise WireError("is cut off, or is not a protobuf message")


def _text(data: memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise WireError("has a name that is not UTF-8") from None
