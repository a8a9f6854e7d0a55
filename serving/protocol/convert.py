"""Conversion: the protocol's messages to numpy arrays, and arrays to messages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from nested_sparse.errors import InputError, TooLargeError
from nested_sparse.excerpt import excerpt
from nested_sparse.proto.messages import InferTensorContents, ModelInferRequest, ModelInferResponse

from .call import Call
from .datatype import Datatype, datatype_named, datatype_of
from .parameters import read_request
from .wire import HEADER_BYTES, length_prefix, split_infer_request

MessageT = TypeVar("MessageT")
SHARED_MEMORY = "shared_memory_region"
CLASSIFICATION = "classification"
MAX_RANK = 32
"""Dimensions an array may have: numpy's limit before version 2."""
RAW_OUTPUT_CONTENTS = ModelInferResponse.DESCRIPTOR.fields_by_name["raw_output_contents"].number
MAX_MESSAGE_BYTES = 2**31 - HEADER_BYTES - 1
"""Limit of the values in an answer: protobuf's own limit, less the bytes of names and parameters."""
MAX_PARAMETERS = 64
"""Limit of the parameters of a request, of an input or of an output, including those of other extensions."""
AT_ONCE = 1 << 15
"""Number of integers converted in one step: 2 ms (Xeon), in which no other thread of Python runs."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The number of inputs and outputs that a model has; a request may name no more."""

    inputs: int
    outputs: int


def read_message(data: bytes, parse: Callable[[bytes], MessageT], limit: int) -> MessageT:
    """The message in `data`, whose size is checked before `parse` reads it.

    limit: most bytes. Raises TooLargeError for more; InputError for data that `parse` cannot read.
    """
    if len(data) > limit:
        advice = (
            "send fewer samples at once, or start it with a larger --max-batch"
            if limit > HEADER_BYTES
            else "this method's requests hold names only"
        )
        raise TooLargeError(f"The request has {len(data)} bytes, this server takes at most {limit}; {advice}")
    try:
        return parse(data)
    except DecodeError:
        raise InputError(f"The request cannot be parsed as this method's request message ({len(data)} bytes)") from None


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request as it came: its message, and the raw values, which were taken out of a large message.

    data: bytes of the whole request.
    """

    message: ModelInferRequest
    raw: Sequence[bytes | memoryview]
    data: bytes = b""

    @property
    def is_large(self) -> bool:
        """Whether read_call takes long, because many values have to be converted. Raw values are not converted."""
        return not self.raw and self.message.ByteSize() > HEADER_BYTES


def parse_infer_request(data: bytes) -> InferRequest:
    """The request in `data`. Raises DecodeError for other data, InputError for too many bytes beside its tensors."""
    if len(data) <= HEADER_BYTES:  # so it cannot exceed that limit
        message = ModelInferRequest.FromString(data)
        return InferRequest(message, message.raw_input_contents, data)
    header, raw = split_infer_request(data)
    return InferRequest(ModelInferRequest.FromString(header), raw, data)


def read_call(request: InferRequest, bounds: Bounds, received_s: float, time_left_s: float | None) -> Call:
    """The call in `request`, sized and typed as its own header says; raw arrays are read-only views. Raises InputError.

    bounds: numbers of the model's inputs and outputs; a repeated field that has more entries is refused unread.
    received_s: time of arrival, a reading of the scheduler's clock.
    time_left_s: seconds from arrival to the transport's deadline; None: no deadline.
    """
    message = request.message
    _check_counts(message, request.raw, bounds)
    inputs: dict[str, NDArray[np.generic]] = {}
    for name, array in _arrays(message, request.raw):
        if name in inputs:
            raise InputError(f"Input '{excerpt(name)}' is given twice; expected each input once.")
        inputs[name] = array
    asked = read_request(inputs, message.parameters, received_s, time_left_s)
    return Call(asked, _wanted(message), message.id)


def _check_counts(request: ModelInferRequest, raw: Sized, bounds: Bounds) -> None:
    if not request.inputs:
        raise InputError("The request has no inputs; expected at least one.")
    for count, most, what in (
        (len(request.inputs), bounds.inputs, "inputs"),
        (len(request.outputs), bounds.outputs, "outputs"),
    ):
        if count > most:
            raise InputError(f"The request has {count} {what}, this model has {most}; expected each once.")
    if raw and len(raw) != len(request.inputs):
        raise InputError(
            f"The request has {len(raw)} raw_input_contents for {len(request.inputs)} inputs; expected one for each."
        )
    _check_parameters(request.parameters, "The request")


def _check_parameters(parameters: Sized, of: str) -> None:
    if len(parameters) > MAX_PARAMETERS:
        raise InputError(f"{of} has {len(parameters)} parameters; expected at most {MAX_PARAMETERS}.")


def _wanted(request: ModelInferRequest) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for output in request.outputs:
        name = excerpt(output.name)
        _check_parameters(output.parameters, f"Output '{name}'")
        for extension in (CLASSIFICATION, SHARED_MEMORY):
            if extension in output.parameters:
                raise InputError(f"Output '{name}' asks for {extension!r}, which this server does not support.")
        if output.name in names:
            raise InputError(f"Output '{name}' is asked for twice; expected each output once.")
        names[output.name] = None
    return tuple(names)


def _arrays(request: ModelInferRequest, raw: Sequence[bytes | memoryview]) -> Iterator[tuple[str, NDArray[np.generic]]]:
    for index, tensor in enumerate(request.inputs):
        name = excerpt(tensor.name)
        _check_parameters(tensor.parameters, f"Input '{name}'")
        if SHARED_MEMORY in tensor.parameters:
            raise InputError(f"Input '{name}' is in shared memory, which this server does not support; send it raw.")
        if raw and tensor.HasField("contents"):
            raise InputError(f"Input '{name}' has both contents and raw_input_contents; expected one of them.")
        shape = _shape(tensor)
        datatype = datatype_named(tensor.datatype, tensor.name)
        flat = (
            _from_raw(name, datatype, shape, raw[index])
            if raw
            else _from_contents(name, datatype, shape, tensor.contents)
        )
        yield tensor.name, flat.reshape(shape)


def _shape(tensor: ModelInferRequest.InferInputTensor) -> tuple[int, ...]:
    name = excerpt(tensor.name)
    if len(tensor.shape) > MAX_RANK:
        raise InputError(f"Input '{name}' has {len(tensor.shape)} dimensions; expected at most {MAX_RANK}.")
    shape = tuple(tensor.shape)
    if any(size < 1 for size in shape):
        raise InputError(f"Input '{name}' has shape {list(shape)}; expected sizes of 1 or more.")
    return shape


def _from_raw(name: str, datatype: Datatype, shape: tuple[int, ...], raw: bytes | memoryview) -> NDArray[np.generic]:
    # Python's integers: a hostile shape cannot overflow into a plausible count
    expected = math.prod(shape) * datatype.dtype.itemsize
    if len(raw) != expected:
        raise InputError(
            f"Input '{name}' has the wrong size: {datatype.name} of shape {list(shape)} takes {expected} "
            f"bytes, got {len(raw)}."
        )
    array: NDArray[np.generic]
    if datatype.name == "BOOL":  # any byte may arrive; numpy's bool may only be 0 or 1
        array = np.frombuffer(raw, np.uint8).astype(np.bool_)
    else:
        array = np.frombuffer(raw, datatype.dtype)
    return array


def _from_contents(
    name: str, datatype: Datatype, shape: tuple[int, ...], contents: InferTensorContents
) -> NDArray[np.generic]:
    if datatype.contents is None:
        raise InputError(f"Input '{name}' is {datatype.name}, which has no contents field; send raw_input_contents.")
    wrong = [field.name for field, _ in contents.ListFields() if field.name != datatype.contents]
    if wrong:
        raise InputError(f"Input '{name}' is {datatype.name}: expected {datatype.contents}, got {', '.join(wrong)}.")
    values: Sequence[float] = getattr(contents, datatype.contents)
    count = math.prod(shape)
    if len(values) != count:  # before one of them is looked at
        raise InputError(
            f"Input '{name}' has the wrong size: shape {list(shape)} takes {count} elements, got {len(values)}."
        )
    if datatype.dtype.kind in "fb":  # on the wire as in memory, at the end of the only field
        contents.DiscardUnknownFields()
        return np.frombuffer(contents.SerializeToString()[-count * datatype.dtype.itemsize :], datatype.dtype)
    narrowed = np.empty(count, datatype.dtype)
    for begin in range(0, count, AT_ONCE):
        flat = np.array(values[begin : begin + AT_ONCE], _carrier(datatype))
        part = narrowed[begin : begin + AT_ONCE]
        part[:] = flat.astype(datatype.dtype)
        if not np.array_equal(part, flat):
            raise InputError(f"Input '{name}' is {datatype.name}, which cannot hold {_first_difference(flat, part)}.")
    return narrowed


def _first_difference(flat: NDArray[np.generic], narrowed: NDArray[np.generic]) -> np.generic:
    first: np.generic = flat[np.flatnonzero(flat != narrowed)[0]]
    return first


def _carrier(datatype: Datatype) -> np.dtype[np.generic]:
    """A type that holds every value of the contents field, so that a value out of range is refused and not wrapped."""
    widest = {"int_contents": "int32", "uint_contents": "uint32"}
    return np.dtype(widest.get(datatype.contents or "", datatype.dtype))


def serialize_response(
    response: ModelInferResponse, names: Sequence[str], outputs: Mapping[str, NDArray[np.generic]]
) -> bytes:
    """The bytes of `response` with the outputs called `names`. Values are sent raw, which every client understands.

    Each value is copied once; protobuf would copy it three times on the event loop. Raises TooLargeError.
    """
    values: list[Any] = []
    size = 0
    for name in names:
        array = outputs[name]
        datatype = datatype_of(array.dtype.name)
        response.outputs.add(name=name, datatype=datatype.name, shape=array.shape)
        size += array.nbytes
        if size > MAX_MESSAGE_BYTES:
            raise TooLargeError(
                f"The answer has {size} bytes, a message holds at most {MAX_MESSAGE_BYTES}; send fewer samples at once"
            )
        flat = np.ascontiguousarray(array, datatype.dtype)
        values += (length_prefix(RAW_OUTPUT_CONTENTS, flat.nbytes), flat)
    return b"".join((response.SerializeToString(), *values))
