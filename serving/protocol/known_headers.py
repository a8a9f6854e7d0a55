"""KnownHeaders: the headers of requests that came before, so that the next ones are read without protobuf.

The header of a request precedes its raw values: names, shapes, parameters, and places in shared memory. A client sends
the same one again and again. A message of protobuf is the sequence of its fields, so equal bytes mean the same,
whatever fields follow. Here only raw values of the same sizes may follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt
from nested_sparse.proto.messages import InferParameter, ModelInferRequest
from nested_sparse.record import record
from nested_sparse.runtime.scheduling import Request
from nested_sparse.runtime.session import Array, CheckedInputs, check_inputs, in_order
from nested_sparse.tensor_spec import TensorSpec
from nested_sparse.wire import BYTES, WireError, varint

from ..rights.caller import client_name
from ..shared_memory.regions import Regions
from .call import Call
from .convert import Bounds, InferRequest, read_call
from .parameters import MS_PER_S
from .places import read_place
from .wire import length_prefix

RAW = ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number
MOST_BYTES = 2048
MOST_LENGTHS, MOST_OF_A_LENGTH = 8, 32
"""Lengths of headers that are known at once, and headers of one length: 0.5 MB of bytes at most."""
MOST_SEEN = 1024


@dataclass(frozen=True, slots=True)
class KnownInput:
    """An input of a known header. nbytes: of its values. region, offset: where they are in shared memory; "": raw."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    nbytes: int
    region: str = ""
    offset: int = 0


@dataclass(frozen=True, slots=True)
class KnownHeader:
    """The common part of all requests with one header.

    message: the header, parsed. request_of, call_of: make the request and its call of the fields that differ.
    timeout_ms: of the parameters. specs: the model's inputs, which these fit; (): of a sequence's request, which has
    some of them only.
    """

    message: ModelInferRequest
    request_of: Callable[..., Request]
    call_of: Callable[..., Call]
    timeout_ms: float | None
    specs: tuple[TensorSpec, ...]
    inputs: tuple[KnownInput, ...]


@record(frozen=True, slots=True)
class KnownRequest:
    """A request with a known header. raw: the values of its inputs that are not in shared memory, in `memory`."""

    header: KnownHeader
    raw: list[memoryview]
    memory: Regions | None

    @property
    def message(self) -> ModelInferRequest:
        """The message without values."""
        return self.header.message

    def call(self, received_s: float, time_left_s: float | None) -> Call:
        """As read_call()."""
        header, raw = self.header, iter(self.raw)
        arrays: list[tuple[str, Array]] = []
        for each in header.inputs:
            values: Any = self._placed(each) if each.region else next(raw)
            arrays.append((each.name, in_order(np.frombuffer(values, each.dtype).reshape(each.shape))))
        timeout_ms = header.timeout_ms
        if time_left_s is not None:
            left_ms = MS_PER_S * time_left_s
            timeout_ms = left_ms if timeout_ms is None else min(timeout_ms, left_ms)
        return header.call_of(
            header.request_of(
                CheckedInputs(header.specs, arrays) if header.specs else dict(arrays),
                received_s=received_s,
                timeout_ms=timeout_ms,
                client=client_name.get(),
            )
        )

    def _placed(self, each: KnownInput) -> NDArray[np.uint8]:
        if self.memory is None:
            raise InputError(f"Input '{excerpt(each.name)}' is in shared memory, which this server does not allow.")
        place = self.memory.place(each.region, each.offset, each.nbytes)
        return place.region.read(place)


class KnownHeaders:
    """The headers that came twice, as many as there is room for. Belongs to one event loop.

    memory: the shared memory that requests may name; None: there is none.
    """

    def __init__(self, memory: Regions | None = None) -> None:
        self._memory = memory
        self._headers: dict[int, dict[bytes, KnownHeader]] = {}  # by length
        self._seen: set[int] = set()

    def find(self, data: bytes) -> KnownRequest | None:
        """The request in `data`; None where its header is not known, or anything but its values follows."""
        for length, headers in self._headers.items():
            header = headers.get(data[:length])
            if header is not None and (raw := _raw_values(data, length, header)) is not None:
                return KnownRequest(header, raw, self._memory)
        return None

    def learn(self, request: InferRequest, bounds: Bounds, specs: tuple[TensorSpec, ...]) -> None:
        """Keep the header of a request to a model with the inputs `specs`, the second time that it is read in order.

        Requests with an id are not kept, as the next one has another id. Nor are those whose values are typed, or are
        not in memory as on the wire, or that have parameters of an output. A sequence's request may lack inputs; those
        are not checked here, as the server adds the others. Raises what read_call() and check_inputs() raise.
        """
        message, raw = request.message, request.raw
        placed = [tensor.parameters for tensor in message.inputs]
        if message.id or not request.data or sum(not each for each in placed) != len(raw):
            return
        length = len(request.data) - sum(len(values) + len(length_prefix(RAW, len(values))) for values in raw)
        if not 0 < length <= MOST_BYTES:
            return
        if any(each.parameters for each in message.outputs):
            return
        data = request.data[:length]
        if not self._came_before(data):
            return
        call = read_call(request, bounds, 0.0, None)
        if len(call.request.inputs) == len(specs):
            check_inputs(specs, call.request.inputs)
        elif bounds.sequences:
            specs = ()
        inputs = tuple(
            KnownInput(name, array.dtype, array.shape, array.nbytes, *self._source(parameters))
            for (name, array), parameters in zip(call.request.inputs.items(), placed, strict=True)
        )
        if specs and [each.name for each in inputs] != [spec.name for spec in specs]:
            return
        if any(each.dtype.kind not in "iufV" for each in inputs):
            return
        if [each.nbytes for each in inputs if not each.region] != [len(values) for values in raw]:
            return
        header = ModelInferRequest()
        # the raw values may not have been last: then these bytes are no message, or one with raw values
        if not _parsed(header, data) or header.raw_input_contents or len(header.inputs) != len(inputs):
            return
        request_of = _maker(call.request, "inputs", "received_s", "timeout_ms", "client")
        known = KnownHeader(header, request_of, _maker(call, "request"), call.request.timeout_ms, specs, inputs)
        if _raw_values(request.data, length, known) is not None:
            self._keep(data, known)

    def _source(self, parameters: Mapping[str, InferParameter]) -> tuple[str, int]:
        """Region and offset of the values of an input with these parameters."""
        place = read_place(parameters, "an input", self._memory)
        return ("", 0) if place is None else (place.region.name, place.offset)

    def _came_before(self, data: bytes) -> bool:
        mark = hash(data)
        if mark in self._seen:
            return True
        if len(self._seen) >= MOST_SEEN:
            self._seen.clear()
        self._seen.add(mark)
        return False

    def _keep(self, data: bytes, header: KnownHeader) -> None:
        if len(data) not in self._headers and len(self._headers) >= MOST_LENGTHS:
            del self._headers[next(iter(self._headers))]
        headers = self._headers.setdefault(len(data), {})
        if len(headers) >= MOST_OF_A_LENGTH:
            del headers[next(iter(headers))]
        headers[data] = header


def _maker(like: Call | Request, *others: str) -> Callable[..., Any]:
    """A maker of such objects, which are equal but for the fields `others`."""
    return partial(
        type(like), **{each.name: getattr(like, each.name) for each in fields(like) if each.name not in others}
    )


def _parsed(message: ModelInferRequest, data: bytes) -> bool:
    try:
        message.ParseFromString(data)
    except Exception:  # DecodeError, of either implementation of protobuf
        return False
    return True


def _raw_values(data: bytes, at: int, header: KnownHeader) -> list[memoryview] | None:
    """The values behind the header, where they have the sizes of its inputs and nothing else is there."""
    view, end, raw = memoryview(data), len(data), []
    try:
        for each in header.inputs:
            if each.region:
                continue
            if at >= end or data[at] != RAW << 3 | BYTES:
                return None
            size, at = varint(data, at + 1, end)
            if size != each.nbytes or size > end - at:
                return None
            raw.append(view[at : at + size])
            at += size
    except WireError:
        return None
    return raw if at == end else None
