"""Between the protocol's messages and numpy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from nested_sparse.errors import InputError, TooLargeError
from nested_sparse.proto.messages import InferTensorContents, ModelInferRequest, ModelInferResponse
from nested_sparse.serving.call import Call
from nested_sparse.serving.datatype import Datatype, datatype_named, datatype_of
from nested_sparse.serving.parameters import read_options

MessageT = TypeVar("MessageT", bound=Message)
SHARED_MEMORY = "shared_memory_region"
CLASSIFICATION = "classification"
MAX_RANK = 32
"""Dimensions an array may have: numpy's limit before version 2."""


def read_message(data: bytes, message: type[MessageT], limit: int) -> MessageT:
    """The message in `data`. Raises InputError where it is none, TooLargeError where it has more than `limit` bytes."""
    if len(data) > limit:
        raise TooLargeError(
            f"The request has {len(data)} bytes, this server takes at most {limit}; send fewer samples at once, or "
            "start it with a larger --max-batch"
        )
    try:
        return message.FromString(data)
    except DecodeError:
        raise InputError(
            f"The request's {len(data)} bytes are no {message.__name__} of the Open Inference Protocol"
        ) from None


def read_call(request: ModelInferRequest, received_s: float, time_left_s: float | None) -> Call:
    """The call in `request`, sized and typed as its own header says; raw arrays are read-only views. Raises InputError.

    time_left_s: what the transport leaves until the client gives up, None for no limit.
    """
    inputs: dict[str, NDArray[np.generic]] = {}
    for name, array in _arrays(request):
        if name in inputs:
            raise InputError(f"Input {name!r} is given twice; expected each input once.")
        inputs[name] = array
    if not inputs:
        raise InputError("The request has no inputs; expected at least one.")
    time_left_ms = None if time_left_s is None else 1000 * time_left_s
    return Call(inputs, received_s, _wanted(request), read_options(request.parameters).within(time_left_ms))


def _wanted(request: ModelInferRequest) -> tuple[str, ...]:
    names = [output.name for output in request.outputs]
    for output in request.outputs:
        for extension in (CLASSIFICATION, SHARED_MEMORY):
            if extension in output.parameters:
                raise InputError(f"Output {output.name!r} asks for {extension!r}, which this server does not support.")
        if names.count(output.name) > 1:
            raise InputError(f"Output {output.name!r} is asked for twice; expected each output once.")
    return tuple(names)


def _arrays(request: ModelInferRequest) -> Iterator[tuple[str, NDArray[np.generic]]]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InputError(
            f"The request has {len(raw)} raw_input_contents for {len(request.inputs)} inputs; expected one for each."
        )
    for index, tensor in enumerate(request.inputs):
        if SHARED_MEMORY in tensor.parameters:
            raise InputError(
                f"Input {tensor.name!r} is in shared memory, which this server does not support; send it raw."
            )
        if raw and tensor.HasField("contents"):
            raise InputError(f"Input {tensor.name!r} has both contents and raw_input_contents; expected one of them.")
        datatype = datatype_named(tensor.datatype, tensor.name)
        flat = (
            _from_raw(tensor, datatype, raw[index]) if raw else _from_contents(tensor.name, datatype, tensor.contents)
        )
        yield tensor.name, _shaped(tensor, flat)


def _element_count(tensor: ModelInferRequest.InferInputTensor) -> int:
    if len(tensor.shape) > MAX_RANK or any(size < 1 for size in tensor.shape):
        raise InputError(
            f"Input {tensor.name!r} has shape {list(tensor.shape)}; expected at most {MAX_RANK} sizes of 1 or more."
        )
    count = 1
    for size in tensor.shape:  # Python's integers: a hostile shape cannot overflow into a plausible count
        count *= size
    return count


def _from_raw(tensor: ModelInferRequest.InferInputTensor, datatype: Datatype, raw: bytes) -> NDArray[np.generic]:
    expected = _element_count(tensor) * datatype.dtype.itemsize
    if len(raw) != expected:
        raise InputError(
            f"Input {tensor.name!r} has the wrong size: {datatype.name} of shape {list(tensor.shape)} takes {expected} "
            f"bytes, got {len(raw)}."
        )
    array: NDArray[np.generic]
    if datatype.name == "BOOL":  # any byte may arrive; numpy's bool may only be 0 or 1
        array = np.frombuffer(raw, np.uint8).astype(np.bool_)
    else:
        array = np.frombuffer(raw, datatype.dtype)
    return array


def _from_contents(name: str, datatype: Datatype, contents: InferTensorContents) -> NDArray[np.generic]:
    if datatype.contents is None:
        raise InputError(f"Input {name!r} is {datatype.name}, which has no contents field; send raw_input_contents.")
    wrong = [field.name for field, _ in contents.ListFields() if field.name != datatype.contents]
    if wrong:
        raise InputError(f"Input {name!r} is {datatype.name}: expected {datatype.contents}, got {', '.join(wrong)}.")
    values: Sequence[float] = getattr(contents, datatype.contents)
    flat = np.array(values, _carrier(datatype))
    narrowed = flat.astype(datatype.dtype)
    if datatype.dtype.kind in "iu" and not np.array_equal(narrowed, flat):
        raise InputError(f"Input {name!r} is {datatype.name}, which cannot hold {_first_difference(flat, narrowed)}.")
    return narrowed


def _first_difference(flat: NDArray[np.generic], narrowed: NDArray[np.generic]) -> np.generic:
    first: np.generic = flat[np.flatnonzero(flat != narrowed)[0]]
    return first


def _carrier(datatype: Datatype) -> np.dtype[np.generic]:
    """What holds every value its contents field can carry, so that a value out of range is seen and not wrapped."""
    widest = {"int_contents": "int32", "uint_contents": "uint32"}
    return np.dtype(widest.get(datatype.contents or "", datatype.dtype))


def _shaped(tensor: ModelInferRequest.InferInputTensor, flat: NDArray[np.generic]) -> NDArray[np.generic]:
    count = _element_count(tensor)
    if flat.size != count:
        raise InputError(
            f"Input {tensor.name!r} has the wrong size: shape {list(tensor.shape)} takes {count} elements, "
            f"got {flat.size}."
        )
    return flat.reshape(tuple(tensor.shape))


def write_outputs(response: ModelInferResponse, names: Sequence[str], outputs: dict[str, NDArray[np.generic]]) -> None:
    """Add the outputs called `names` to `response`, as raw bytes: clients that take typed contents take those too."""
    for name in names:
        array = outputs[name]
        datatype = datatype_of(array.dtype.name)
        response.outputs.add(name=name, datatype=datatype.name, shape=array.shape)
        response.raw_output_contents.append(np.ascontiguousarray(array, datatype.dtype).tobytes())
