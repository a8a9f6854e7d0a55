"""InferBody: the bodies of an inference over REST, to and from the bytes of the gRPC messages.

A request becomes the same ModelInferRequest as over gRPC. So what it may hold is decided in one place,
`serving/protocol/`. A body is JSON; behind it may stand raw values ("binary tensor data extension").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt
from nested_sparse.proto.messages import ModelInferRequest, ModelInferResponse

from ..protocol.convert import MAX_RANK
from ..protocol.wire import VARINT_BYTES, length_prefix
from .json_message import message_as_json, read_json, set_choice
from .json_tensor import cut_out_arrays, marked_array, raw_of_strings, raw_of_text, text_of_raw

HEADER_LENGTH = "Inference-Header-Content-Length"
"""HTTP header with the number of bytes of JSON in front of raw values; without it, the whole body is JSON."""
MOST_JSON_BYTES = VARINT_BYTES
"""Limit of the JSON beside its arrays of numbers: it is parsed in one step."""
SHARED_MEMORY = "shared_memory_region"
RAW_INPUT_CONTENTS = ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number
_KEYS = {"id", "parameters", "inputs", "outputs"}
_INPUT_KEYS = {"name", "shape", "datatype", "parameters", "data"}
_OUTPUT_KEYS = {"name", "parameters"}


@dataclass(slots=True)
class WantedForm:
    """The outputs that go as raw values. by_name: of the outputs that say it; by_default: of the others."""

    by_default: bool = False
    by_name: dict[str, bool] = field(default_factory=dict)

    def is_raw(self, name: str) -> bool:
        """Whether the output called `name` goes as raw values."""
        return self.by_name.get(name, self.by_default)


def read_infer_body(body: bytes, header_bytes: int | None, model: str, version: str) -> tuple[bytes, WantedForm]:
    """The bytes of the ModelInferRequest that `body` asks for, and the form of its answer. Raises InputError.

    header_bytes: length of the JSON in front of raw values; None: there are none.
    """
    if header_bytes is not None and not 0 <= header_bytes <= len(body):
        raise InputError(f"{HEADER_LENGTH} is {header_bytes}; the body has {len(body)} bytes.")
    split = len(body) if header_bytes is None else header_bytes
    text, arrays = cut_out_arrays(body[:split])
    if len(text) > MOST_JSON_BYTES:
        raise InputError(
            f"The body has {len(text)} bytes of JSON beside arrays of numbers, {MOST_JSON_BYTES} are allowed; "
            "send large tensors as binary data"
        )
    given = _object(read_json(text), _KEYS, "The body")
    message = ModelInferRequest(model_name=model, model_version=version, id=_text(given, "id", "The body"))
    form = WantedForm(by_default=_take_flag(given, "binary_data_output", "The body"))
    _set_parameters(message, given, "The body")
    tail = _Tail(memoryview(body)[split:])
    raws = [_read_input(message, each, arrays, tail) for each in _list(given, "inputs")]
    if tail.left:
        raise InputError(f"The body has {tail.left} bytes behind its tensors; expected the sum of 'binary_data_size'.")
    if any(arrays):
        raise InputError("The body has 'data' twice in one input, or outside of the inputs.")
    for each in _list(given, "outputs"):
        _read_output(message, each, form)
    parts: list[Any] = [message.SerializeToString()]
    for raw in raws:
        if raw is not None:
            parts += (length_prefix(RAW_INPUT_CONTENTS, memoryview(raw).nbytes), raw)
    return b"".join(parts), form


class _Tail:
    """The raw values behind the JSON, from which each input takes its own in turn."""

    def __init__(self, values: memoryview) -> None:
        self._values = values
        self.left = len(values)

    def take(self, nbytes: int, where: str) -> memoryview:
        if nbytes > self.left:
            raise InputError(f"{where}: 'binary_data_size' is {nbytes}, the body has {self.left} bytes left for it.")
        begin = len(self._values) - self.left
        self.left -= nbytes
        return self._values[begin : begin + nbytes]


def _read_input(message: ModelInferRequest, given: Any, arrays: list[bytes], tail: _Tail) -> Any:
    """Adds an input to `message`; returns its raw values, None where they are in shared memory."""
    _object(given, _INPUT_KEYS, "An input")
    name = _text(given, "name", "An input")
    where = f"Input '{excerpt(name)}'"
    shape = given.get("shape")
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(type(size) is int for size in shape):
        raise InputError(f"{where}: expected 'shape', a list of at most {MAX_RANK} whole numbers.")
    if any(not 1 <= size < 1 << 63 for size in shape):
        raise InputError(f"{where} has shape {excerpt(shape)}; expected sizes of 1 or more.")
    datatype = _text(given, "datatype", where)
    nbytes = _take_number(given, "binary_data_size", where)
    tensor = message.inputs.add(name=name, datatype=datatype, shape=shape)
    _set_parameters(tensor, given, where)
    data = given.get("data")
    in_memory = SHARED_MEMORY in tensor.parameters
    if sum((data is not None, nbytes is not None, in_memory)) != 1:
        raise InputError(f"{where}: expected one of 'data', 'binary_data_size' and {SHARED_MEMORY!r}.")
    if nbytes is not None:
        return tail.take(nbytes, where)
    if in_memory:
        return None
    array = marked_array(data, arrays)
    if array is None:
        if datatype != "BYTES" or not isinstance(data, list):
            raise InputError(f"{where} is {excerpt(datatype)}: expected an array of its values in 'data'.")
        return raw_of_strings(data, name)
    if datatype == "BYTES":
        raise InputError(f"{where} is BYTES: expected strings in 'data'.")
    return raw_of_text(array, name, datatype, shape)


def _read_output(message: ModelInferRequest, given: Any, form: WantedForm) -> None:
    _object(given, _OUTPUT_KEYS, "An output")
    name = _text(given, "name", "An output")
    where = f"Output '{excerpt(name)}'"
    if "binary_data" in _parameters(given, where):
        form.by_name[name] = _take_flag(given, "binary_data", where)
    _set_parameters(message.outputs.add(name=name), given, where)


def _set_parameters(owner: Any, given: Mapping[str, Any], where: str) -> None:
    for name, value in _parameters(given, where).items():
        set_choice(owner.parameters[name], value, f"{where}: parameter '{excerpt(name)}'")


def _parameters(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    parameters = given.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise InputError(f"{where}: expected 'parameters', a JSON object.")
    return parameters or {}


def _take_flag(given: Mapping[str, Any], name: str, where: str) -> bool:
    value = _parameters(given, where).pop(name, False)
    if not isinstance(value, bool):
        raise InputError(f"{where}: parameter {name!r} is {excerpt(value)}; expected true or false.")
    return value


def _take_number(given: Mapping[str, Any], name: str, where: str) -> int | None:
    value = _parameters(given, where).pop(name, None)
    if value is not None and (type(value) is not int or value < 0):
        raise InputError(f"{where}: parameter {name!r} is {excerpt(value)}; expected a number of bytes.")
    return value


def _object(value: Any, keys: set[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a JSON object.")
    for key in value:
        if key not in keys:
            raise InputError(f"{where} has an unknown key '{excerpt(key)}'; expected {', '.join(sorted(keys))}.")
    return value


def _list(given: Mapping[str, Any], key: str) -> list[Any]:
    value = given.get(key)
    if value is not None and not isinstance(value, list):
        raise InputError(f"The body: expected {key!r}, a list.")
    return value or []


def _text(given: Mapping[str, Any], key: str, where: str) -> str:
    value = given.get(key, "" if key == "id" else None)
    if not isinstance(value, str):
        raise InputError(f"{where}: expected {key!r}, a string.")
    return value


def write_infer_body(data: bytes, form: WantedForm) -> tuple[bytes, int | None]:
    """The body for the ModelInferResponse in `data`, and the number of its bytes of JSON if raw values follow them.

    Raises InputError: an output has no form in JSON.
    """
    message = ModelInferResponse.FromString(data)
    raws = message.raw_output_contents
    tail: list[bytes] = []
    outputs: list[bytes] = []
    for index, tensor in enumerate(message.outputs):
        shown: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        parameters = {name: message_as_json(tensor.parameters[name]) for name in tensor.parameters}
        values = b""
        if SHARED_MEMORY not in parameters:
            raw = raws[index]
            if form.is_raw(tensor.name):
                parameters["binary_data_size"] = len(raw)
                tail.append(raw)
            else:
                values = b', "data": ' + b"".join(text_of_raw(raw, tensor.name, tensor.datatype))
        if parameters:
            shown["parameters"] = parameters
        outputs.append(json.dumps(shown).encode()[:-1] + values + b"}")
    head: dict[str, Any] = {"model_name": message.model_name, "model_version": message.model_version}
    if message.id:
        head["id"] = message.id
    head["parameters"] = {name: message_as_json(message.parameters[name]) for name in sorted(message.parameters)}
    text = json.dumps(head).encode()[:-1] + b', "outputs": [' + b", ".join(outputs) + b"]}"
    return b"".join((text, *tail)), len(text) if tail else None
