"""JSON of the protocol's small messages: fields under their names in the .proto file, as Triton's REST has them."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt, excerpts

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}
_FLOATS = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}


def read_json(data: bytes) -> Any:
    """The value in `data`; None where it is empty. Raises InputError: no JSON, or nested too deeply."""
    if not data.strip():
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError, so is a number that is too long
        raise InputError(f"The body is not JSON that can be read: {excerpt(error)}") from None


def message_as_json(message: Message) -> Any:
    """`message` as values for json.dumps. Fields that are not set have their default; a choice has its own value."""
    choice = _choice_of(message)
    if choice is not None:
        chosen = message.WhichOneof(choice.name)
        return None if chosen is None else _plain(message.DESCRIPTOR.fields_by_name[chosen], getattr(message, chosen))
    shown: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            of_value = field.message_type.fields_by_name["value"]
            shown[field.name] = {str(key): _plain(of_value, value[key]) for key in value}
        elif field.is_repeated:
            shown[field.name] = [_plain(field, each) for each in value]
        elif not field.has_presence or message.HasField(field.name):
            shown[field.name] = _plain(field, value)
    return shown


def _plain(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return message_as_json(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def fill_message(message: Message, body: Any, where: str) -> None:
    """Set the fields of `message` from the JSON object `body`. Raises InputError, which names the place in `body`.

    where: name of the object in errors. A key that is no field of the message is an error.
    """
    if not isinstance(body, dict):
        raise InputError(f"{where}: expected a JSON object, got {_kind(body)}")
    fields = message.DESCRIPTOR.fields_by_name
    for key, value in body.items():
        field = fields.get(key)
        if field is None:
            known = f"expected {excerpts(fields)}" if fields else "it takes none"
            raise InputError(f"{where} has an unknown key '{excerpt(key)}'; {known}")
        _set(message, field, value, f"{where}: '{key}'")


def _set(message: Message, field: Any, value: Any, where: str) -> None:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected a JSON object, got {_kind(value)}")
        for name, given in value.items():
            set_choice(getattr(message, field.name)[name], given, f"{where}: '{excerpt(name)}'")
    elif field.is_repeated or entry is not None:
        raise InputError(f"{where} cannot be given over REST; use gRPC")
    else:
        setattr(message, field.name, _scalar(field, value, where))


def set_choice(message: Message, value: Any, where: str) -> None:
    """Set the field of `message`, a oneof of scalars or a repeated string, that fits the JSON value. null sets none.

    Raises InputError.
    """
    if value is None:
        return
    choice = _choice_of(message)
    if choice is None:
        values = value if isinstance(value, list) else [value]
        texts = [str(each) for each in values if isinstance(each, str | int) and not isinstance(each, bool)]
        if len(texts) != len(values):
            raise InputError(f"{where}: expected a string or a list of strings, got {_kind(value)}")
        getattr(message, message.DESCRIPTOR.fields[0].name).extend(texts)
        return
    for field in choice.fields:
        try:
            setattr(message, field.name, _scalar(field, value, where))
            return
        except InputError:
            continue
    raise InputError(f"{where}: {_kind(value)} is no value that it can have")


def _choice_of(message: Message) -> Any:
    """The oneof that `message` is nothing but; None for another message."""
    descriptor = message.DESCRIPTOR
    only = descriptor.oneofs[0] if len(descriptor.oneofs) == 1 else None
    scalar = all(field.message_type is None for field in descriptor.fields)
    return only if only is not None and scalar and len(only.fields) == len(descriptor.fields) else None


def _scalar(field: Any, value: Any, where: str) -> Any:
    """`value` for a field of one scalar. Raises InputError where its type or its range is another."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_BOOL and isinstance(value, bool):
        return value
    if kind in _INTEGERS and isinstance(value, int) and not isinstance(value, bool):
        signed = kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
        bits = 32 if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 64
        low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
        if low <= value < high:
            return value
        raise InputError(f"{where}: {excerpt(value)} does not fit in {bits} bits")
    if kind in _FLOATS and isinstance(value, float):
        return value
    if field.type == FieldDescriptor.TYPE_STRING and isinstance(value, str):
        return value
    if field.type == FieldDescriptor.TYPE_BYTES and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise InputError(f"{where}: expected base64") from None
    raise InputError(f"{where}: expected {_EXPECTED.get(kind, 'a number')}, got {_kind(value)}")


_EXPECTED = {FieldDescriptor.CPPTYPE_BOOL: "true or false", FieldDescriptor.CPPTYPE_STRING: "a string"}


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), f"the number {excerpt(value)}")
