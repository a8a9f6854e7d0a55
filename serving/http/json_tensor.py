"""JsonTensor: the values of a tensor in JSON, to and from the protocol's raw bytes, in small steps.

json.loads of a large text keeps the interpreter from every other thread until it ends: 10 ms for 1 MB (Xeon). Arrays of
numbers are therefore cut out of the text before it is parsed, and parsed piece by piece.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nested_sparse.bfloat16 import BFLOAT16, cast, widened
from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt

from ..protocol.datatype import datatype_named

PIECE_BYTES = 1 << 14
"""Bytes of text that are parsed in one step: 0.2 ms (Xeon)."""
PIECE_VALUES = 1 << 11
_KINDS: Mapping[str, set[type]] = {"b": {bool}, "f": {int, float}}
"""The types of JSON values, by the kind of a numpy type; of all other kinds they are whole numbers."""
_KEY = b'"data"'
_OPENS = re.compile(rb"\s*:\s*(?=\[)")
_GOES_ON = re.compile(rb'\s*(?:\}|,\s*"[^"\\]*(?:\\.[^"\\]*)*"\s*:)', re.DOTALL)
"""The end of an object, or its next key: either follows a value of an object, and no value of a list."""
_ALL_BUT_MARKS = bytes(sorted(set(range(256)) - set(b"[],")))
_TO_SPACES = bytes.maketrans(b"[]", b"  ")
_TOKEN = secrets.token_hex(16)
"""Begin of the string that stands for an array which was cut out; a client cannot know it."""


def cut_out_arrays(text: bytes) -> tuple[bytes, list[bytes]]:
    """`text` with a mark in the place of each `"data"` that is an array of numbers, and those arrays, unread.

    An array that holds strings or objects stays where it is.
    """
    rest: list[bytes] = []
    arrays: list[bytes] = []
    end = at = 0
    while (at := text.find(_KEY, at)) >= 0:
        begins = _OPENS.match(text, at + len(_KEY))
        at += len(_KEY)
        if begins is None or text[at - len(_KEY) - 1 : at - len(_KEY)] == b"\\":  # inside of a string
            continue
        begin = begins.end()
        nexts = [place for place in (text.find(mark, begin) for mark in (b'"', b"}")) if place >= 0]
        last = text.rfind(b"]", begin, min(nexts, default=len(text)))
        if last < 0 or _GOES_ON.match(text, last + 1) is None:  # the list goes on, with a string or an object
            continue
        rest += (text[end:begin], f'"{_TOKEN}{len(arrays)}"'.encode())
        arrays.append(text[begin : last + 1])
        end = at = last + 1
    return b"".join((*rest, text[end:])), arrays


def marked_array(value: object, arrays: list[bytes]) -> bytes | None:
    """The array that `value` is the mark of, which is then taken out of `arrays`; None for another value."""
    if not (isinstance(value, str) and value.startswith(_TOKEN)):
        return None
    index = int(value.removeprefix(_TOKEN))
    array, arrays[index] = arrays[index], b""
    return array


def raw_of_text(text: bytes, name: str, datatype: str, shape: Sequence[int]) -> NDArray[np.generic]:
    """The values of an array of numbers, flat or nested as `shape` is, as they are in memory. Raises InputError."""
    shown, of_type = excerpt(name), datatype_named(datatype, name).dtype
    count = math.prod(shape)
    marks = b"".join(
        text[at : at + PIECE_BYTES].translate(None, _ALL_BUT_MARKS) for at in range(0, len(text), PIECE_BYTES)
    )
    given = marks.count(b",") + 1
    if given != count:
        raise InputError(
            f"Input '{shown}' has the wrong size: shape {list(shape)} takes {count} elements, got {given}."
        )
    if marks != b"[" + b"," * (count - 1) + b"]" and marks != _nested(shape):
        raise InputError(f"Input '{shown}': expected 'data' flat, or nested as its shape {list(shape)} says.")
    flat: NDArray[np.generic] = np.empty(count, np.float32 if of_type == BFLOAT16 else of_type)
    at = 0
    for piece in _pieces(text):
        try:
            values = json.loads(b"[" + piece.translate(_TO_SPACES) + b"]")
        except ValueError as error:
            raise InputError(f"Input '{shown}': 'data' is no array of numbers: {excerpt(error)}") from None
        _store(values, flat[at : at + len(values)], shown, datatype)
        at += len(values)
    return cast(flat, of_type) if of_type == BFLOAT16 else flat


def _nested(shape: Sequence[int]) -> bytes:
    marks = b"," * (shape[-1] - 1) if shape else b""
    marks = b"[" + marks + b"]"
    for size in reversed(shape[:-1]):
        marks = b"[" + b",".join([marks] * size) + b"]"
    return marks


def _pieces(text: bytes) -> Iterator[bytes]:
    at = 0
    while at <= len(text):
        cut = text.find(b",", at + PIECE_BYTES)
        cut = len(text) if cut < 0 else cut
        yield text[at:cut]
        at = cut + 1


def _store(values: list[Any], into: NDArray[np.generic], name: str, datatype: str) -> None:
    """Convert `values` exactly, or to the nearest number of a type with a fraction. Raises InputError."""
    kinds = set(map(type, values))
    kind = into.dtype.kind
    allowed = _KINDS.get(kind, {int})
    if not values or len(values) != len(into) or kinds - allowed:
        expected = {"b": "true and false", "f": "numbers"}.get(kind, "whole numbers")
        raise InputError(f"Input '{name}' is {datatype}: expected {expected} in 'data'.")
    if kind in "bf":
        with np.errstate(over="ignore"):
            try:
                wide = np.array(values, np.float64)
            except OverflowError:
                raise InputError(f"Input '{name}' is {datatype}, which cannot hold a value of its 'data'.") from None
            into[:] = wide.astype(into.dtype)
        if kind == "f" and not np.array_equal(np.isinf(into), np.isinf(wide)):
            raise InputError(f"Input '{name}' is {datatype}, which cannot hold a value of its 'data'.")
        return
    limits: Any = np.iinfo(into.dtype.name)
    if min(values) < limits.min or max(values) > limits.max:
        raise InputError(f"Input '{name}' is {datatype}, which holds {limits.min} to {limits.max}.")
    into[:] = np.array(values, into.dtype)


def raw_of_strings(values: object, name: str) -> bytes:
    """The raw bytes of a BYTES tensor, whose JSON is strings, flat or nested. Raises InputError."""
    raw: list[bytes] = []
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(reversed(value))
        elif isinstance(value, str):
            encoded = value.encode()
            raw.append(struct.pack("<I", len(encoded)) + encoded)
        else:
            raise InputError(f"Input '{excerpt(name)}' is BYTES: expected strings in 'data'.")
    return b"".join(raw)


def text_of_raw(raw: bytes, name: str, datatype: str) -> Iterator[bytes]:
    """The JSON of a flat array with the values in `raw`, in pieces. Raises InputError: bytes that are no text."""
    if datatype == "BYTES":
        yield json.dumps(_strings(raw, name)).encode()
        return
    flat: NDArray[np.generic] = np.frombuffer(raw, datatype_named(datatype, name).dtype)
    if flat.dtype == BFLOAT16:
        flat = widened(flat)
    yield b"["
    for begin in range(0, len(flat), PIECE_VALUES):
        piece = flat[begin : begin + PIECE_VALUES].tolist()
        yield (b", " if begin else b"") + json.dumps(piece)[1:-1].encode()
    yield b"]"


def _strings(raw: bytes, name: str) -> list[str]:
    strings: list[str] = []
    at = 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        try:
            strings.append(raw[at + 4 : at + 4 + length].decode())
        except UnicodeDecodeError:
            raise InputError(
                f"Output '{excerpt(name)}' holds bytes that are no text; ask for it as binary data."
            ) from None
        at += 4 + length
    return strings
