"""Conversion: the protocol's messages to numpy arrays, and arrays to messages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from nested_sparse.argument import whole
from nested_sparse.errors import InputError, TooLargeError
from nested_sparse.excerpt import excerpt
from nested_sparse.proto.messages import InferTensorContents, ModelInferRequest, ModelInferResponse

from ..shared_memory.region import Place
from ..shared_memory.regions import Regions
from .call import Call
from .classification import TEXTS, raw_texts
from .datatype import Datatype, datatype_named, datatype_of
from .parameters import KNOWN, SEQUENCE, check_known, check_raw, read_request
from .places import PLACE, SHARED_MEMORY, placed_bytes, placed_parameters, read_integer, read_place
from .wire import HEADER_BYTES, length_prefix, split_infer_request

MessageT = TypeVar("MessageT")
MAX_RANK = 32
"""Dimensions an array may have: numpy's limit before version 2."""
RAW_OUTPUT_CONTENTS = ModelInferResponse.DESCRIPTOR.fields_by_name["raw_output_contents"].number
MAX_MESSAGE_BYTES = 2**31 - HEADER_BYTES - 1
"""Limit of the values in an answer: protobuf's own limit, less the bytes of names and parameters."""
CLASSIFICATION = "classification"
"""Parameter of an output: the number of its largest values that are wanted in its place, as texts."""
RAW_BYTES, RAW_OUTPUT = "binary_data_size", "binary_data"
"""Parameters of REST: bytes of an input's raw value, and whether an output's is wanted raw. KServe's client sends the
first over gRPC, too."""
AT_ONCE = 1 << 15
"""Number of integers converted in one step: 2 ms (Xeon), in which no other thread of Python runs."""
LARGE_BYTES = 1 << 20
"""Shared memory that is copied beside the event loop: more takes over 0.3 ms (Xeon)."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The number of inputs and outputs that a model has; a request may name no more.

    memory: the shared memory that a request may name; None: there is none. sequences: whether it may be of a sequence.
    """

    inputs: int
    outputs: int
    memory: Regions | None = None
    sequences: bool = False


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
        """Whether read_call takes long, because much has to be converted or copied. Raw values are neither."""
        if len(self.raw) == len(self.message.inputs):
            return False
        if not self.raw and self.message.ByteSize() > HEADER_BYTES:
            return True
        return sum(placed_bytes(tensor.parameters) for tensor in self.message.inputs) > LARGE_BYTES


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
    for name, array in _arrays(message, request.raw, bounds.memory):
        if name in inputs:
            raise InputError(f"Input '{excerpt(name)}' is given twice; expected each input once.")
        inputs[name] = array
    asked = read_request(inputs, message.parameters, received_s, time_left_s)
    names, places, classes = _wanted(message, bounds.memory)
    return Call(asked, names, message.id, places, classes)


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
        expected = sum(SHARED_MEMORY not in tensor.parameters for tensor in request.inputs)
        if len(raw) != expected:
            raise _unequal(len(raw), expected)
    check_known(request.parameters, "The request", (*KNOWN, *SEQUENCE) if bounds.sequences else KNOWN)


def _unequal(count: int, expected: int) -> InputError:
    return InputError(
        f"The request has {count} raw_input_contents for {expected} inputs; expected one for each that is not in "
        "shared memory."
    )


def _wanted(
    request: ModelInferRequest, memory: Regions | None
) -> tuple[tuple[str, ...], dict[str, Place], dict[str, int]]:
    """The names of the wanted outputs, the shared memory for those that go there, and the wanted numbers of classes."""
    names: dict[str, None] = {}
    places: dict[str, Place] = {}
    classes: dict[str, int] = {}
    for output in request.outputs:
        name = excerpt(output.name)
        if output.name in names:
            raise InputError(f"Output '{name}' is asked for twice; expected each output once.")
        names[output.name] = None
        if output.parameters:
            what = f"Output '{name}'"
            check_known(output.parameters, what, (CLASSIFICATION, *PLACE, RAW_OUTPUT))
            check_raw(output.parameters, RAW_OUTPUT, what)
            count = read_integer(output.parameters, CLASSIFICATION, what)
            if count is not None:
                classes[output.name] = whole(f"{what}: {CLASSIFICATION}", count, 1)
            if (place := read_place(output.parameters, what, memory)) is not None:
                places[output.name] = place
    return tuple(names), places, classes


def _arrays(
    request: ModelInferRequest, raw: Sequence[bytes | memoryview], memory: Regions | None
) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """The inputs. Where some are in shared memory, the raw values are those of the others, in their order."""
    left, read_bytes = iter(raw), 0
    for tensor in request.inputs:
        name = excerpt(tensor.name)
        place = None
        if tensor.parameters:
            check_known(tensor.parameters, f"Input '{name}'", (*PLACE, RAW_BYTES))
            place = read_place(tensor.parameters, f"Input '{name}'", memory)
        shape = _shape(tensor)
        datatype = datatype_named(tensor.datatype, tensor.name)
        if (place is not None or raw) and tensor.HasField("contents"):
            other = "values in shared memory" if place is not None else "raw_input_contents"
            raise InputError(f"Input '{name}' has both contents and {other}; expected one of them.")
        if place is not None:
            _check_nbytes(name, datatype, shape, place.nbytes)
            read_bytes += place.nbytes
            if memory is not None and read_bytes > memory.limit_bytes:
                raise TooLargeError(
                    f"The request names {read_bytes} bytes of shared memory, this server takes at most "
                    f"{memory.limit_bytes}; send fewer samples at once, or start it with a larger --max-batch"
                )
            flat = _from_raw(name, datatype, shape, place.region.read(place).data)
        elif raw:
            values = next(left)
            stated = read_integer(tensor.parameters, RAW_BYTES, f"Input '{name}'")
            if stated not in (None, len(values)):
                raise InputError(f"Input '{name}' has {len(values)} bytes, its {RAW_BYTES!r} says {stated}.")
            flat = _from_raw(name, datatype, shape, values)
        elif RAW_BYTES in tensor.parameters:
            raise InputError(f"Input '{name}' has {RAW_BYTES!r} and no raw values; expected both.")
        else:
            flat = _from_contents(name, datatype, shape, tensor.contents)
        yield tensor.name, flat.reshape(shape)
    if next(left, None) is not None:
        raise _unequal(len(raw), sum(SHARED_MEMORY not in tensor.parameters for tensor in request.inputs))


def _shape(tensor: ModelInferRequest.InferInputTensor) -> tuple[int, ...]:
    name = excerpt(tensor.name)
    if len(tensor.shape) > MAX_RANK:
        raise InputError(f"Input '{name}' has {len(tensor.shape)} dimensions; expected at most {MAX_RANK}.")
    shape = tuple(tensor.shape)
    if any(size < 1 for size in shape):
        raise InputError(f"Input '{name}' has shape {list(shape)}; expected sizes of 1 or more.")
    return shape


def _check_nbytes(name: str, datatype: Datatype, shape: tuple[int, ...], nbytes: int) -> None:
    # Python's integers: a hostile shape cannot overflow into a plausible count
    expected = math.prod(shape) * datatype.dtype.itemsize
    if nbytes != expected:
        raise InputError(
            f"Input '{name}' has the wrong size: {datatype.name} of shape {list(shape)} takes {expected} "
            f"bytes, got {nbytes}."
        )


def _from_raw(name: str, datatype: Datatype, shape: tuple[int, ...], raw: bytes | memoryview) -> NDArray[np.generic]:
    _check_nbytes(name, datatype, shape, len(raw))
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
    response: ModelInferResponse,
    names: Sequence[str],
    outputs: Mapping[str, NDArray[np.generic]],
    places: Mapping[str, Place] = MappingProxyType({}),
) -> bytes:
    """The bytes of `response` with the outputs called `names`. Values are sent raw, which every client understands.

    Each is copied once; protobuf would copy it three times on the event loop.
    places: the shared memory of outputs that go there; their raw values in the answer are empty.
    Raises TooLargeError; InputError for a place that is too small or gone.
    """
    values: list[Any] = []
    size = 0
    for name in names:
        array = outputs[name]
        tensor = response.outputs.add(name=name, shape=array.shape)
        if array.dtype == np.object_:
            tensor.datatype, flat = TEXTS, np.frombuffer(raw_texts(array), np.uint8)
        else:
            datatype = datatype_of(array.dtype.name)
            tensor.datatype, flat = datatype.name, np.ascontiguousarray(array, datatype.dtype)
        if name in places:
            _put(tensor, places[name], flat)
            flat = flat[:0]
        size += flat.nbytes
        if size > MAX_MESSAGE_BYTES:
            raise TooLargeError(
                f"The answer has {size} bytes, a message holds at most {MAX_MESSAGE_BYTES}; send fewer samples at once"
            )
        values += (length_prefix(RAW_OUTPUT_CONTENTS, flat.nbytes), flat)
    return b"".join((response.SerializeToString(), *values))


def _put(tensor: ModelInferResponse.InferOutputTensor, place: Place, values: NDArray[np.generic]) -> None:
    """Write the values of an output into shared memory, and say so in the answer."""
    if values.nbytes > place.nbytes:
        raise InputError(
            f"Output '{excerpt(tensor.name)}' has {values.nbytes} bytes, its place in {place.region} has "
            f"{place.nbytes}; name a larger one"
        )
    place.region.write(place, values.reshape(-1).view(np.uint8).data)
    for key, value in placed_parameters(place, values.nbytes).items():
        tensor.parameters[key].CopyFrom(value)
