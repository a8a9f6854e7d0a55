"""Fuzzer: requests of any RPC that are nearly right, made from the protocol's own descriptors."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from nested_sparse.proto import messages

TEXTS = (
    "",
    "x",
    "1",
    "2",
    "01",
    "-1",
    "../net",
    "/etc",
    "a" * 300,
    "\u202e",
    "%s",
    "FP32",
    "INT64",
    "BYTES",
    "true",
    "{}",
    "[" * 50,
)
"""Texts that any field may get, beside the words of the server."""
INTEGERS = (0, 1, 2, 4, 8, 255, 2**31 - 1, 2**31, 2**32, 2**63 - 1)
MOST_CHANGES, MOST_REPEATED, MOST_DEPTH = 4, 3, 6
SPOILT_SHARE = 0.1
"""Share of the requests whose bytes are changed, too."""


class Fuzzer:
    """Changes templates, which are valid requests, at random places. Equal seeds make equal requests.

    words: texts that mean something to the server, such as names of models and tensors.
    """

    def __init__(self, seed: int, words: Sequence[str]) -> None:
        self._random = random.Random(seed)
        self._texts = (*TEXTS, *words, *words)

    def request(self, template: Any) -> bytes:
        """A request like `template`, with up to MOST_CHANGES changes."""
        message = type(template)()
        message.CopyFrom(template)
        for _ in range(self._random.randint(0, MOST_CHANGES)):
            self._change(self._random.choice(list(_messages(message))))
        data: bytes = message.SerializeToString()
        return self._spoilt(data) if self._random.random() < SPOILT_SHARE else data

    def _change(self, message: Any, depth: int = 0) -> None:
        """Set, clear or extend one field of the message."""
        if not message.DESCRIPTOR.fields:
            return
        field = self._random.choice(message.DESCRIPTOR.fields)
        if self._random.random() < 0.2:
            message.ClearField(field.name)
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            self._add_entry(message, field, depth)
        elif field.is_repeated:
            for _ in range(self._random.randint(1, MOST_REPEATED)):
                self._extend(getattr(message, field.name), field, depth)
        elif field.message_type is not None:
            self._fill(getattr(message, field.name), depth)
        else:
            setattr(message, field.name, self._value(field))

    def _add_entry(self, message: Any, field: FieldDescriptor, depth: int) -> None:
        entries, value = getattr(message, field.name), field.message_type.fields_by_name["value"]
        key = self._value(field.message_type.fields_by_name["key"])
        if value.message_type is not None:
            self._fill(entries[key], depth)
        else:
            entries[key] = self._value(value)

    def _extend(self, values: Any, field: FieldDescriptor, depth: int) -> None:
        if field.message_type is not None:
            self._fill(values.add(), depth)
        else:
            values.append(self._value(field))

    def _fill(self, message: Any, depth: int) -> None:
        message.SetInParent()
        for _ in range(self._random.randint(0, 3) if depth < MOST_DEPTH else 0):
            self._change(message, depth + 1)

    def _value(self, field: FieldDescriptor) -> Any:
        if field.type == FieldDescriptor.TYPE_STRING:
            return self._random.choice(self._texts)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self._random.randbytes(self._random.choice((0, 1, 4, 15, 16, 32)))
        if field.type == FieldDescriptor.TYPE_BOOL:
            return self._random.random() < 0.5
        if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
            return self._random.choice((0.0, -1.0, 1e-300, 1e30, float("inf"), float("nan")))
        if field.enum_type is not None:
            return self._random.choice([value.number for value in field.enum_type.values])
        bits = 31 if field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32) else 63
        number = self._random.choice(INTEGERS) % 2**bits
        signed = field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64)
        return -number if signed and self._random.random() < 0.3 else number

    def _spoilt(self, data: bytes) -> bytes:
        """The bytes with some changed, cut off, or doubled."""
        spoilt = bytearray(data)
        for _ in range(self._random.randint(1, 4)):
            if spoilt:
                spoilt[self._random.randrange(len(spoilt))] = self._random.randrange(256)
        kind = self._random.random()
        return bytes(
            spoilt[: self._random.randint(0, len(spoilt))] if kind < 0.3 else spoilt * (2 if kind < 0.4 else 1)
        )


def methods() -> Iterator[tuple[str, Any, bool]]:
    """Name, class of the request, and whether the RPC is a stream, of each RPC of the protocol."""
    for method in messages.POOL.FindServiceByName(messages.SERVICE_NAME).methods:
        yield method.name, getattr(messages, method.input_type.name), method.client_streaming


def _messages(message: Any) -> Iterator[Any]:
    """The message, and all those in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for each in value.values():
                    yield from _messages(each)
        else:
            for each in value if field.is_repeated else (value,):
                yield from _messages(each)
