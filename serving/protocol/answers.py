"""Answers: the bytes of responses. The part that is the same for a level is made once, the rest without protobuf.

The order of the fields differs from protobuf's own, which its parsers allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nested_sparse.proto.messages import InferParameter, ModelInferResponse
from nested_sparse.runtime.scheduling import Response
from nested_sparse.wire import BYTES, VARINT

from .convert import MAX_MESSAGE_BYTES, RAW_OUTPUT_CONTENTS, serialize_response
from .datatype import datatype_of
from .parameters import served_parameters
from .wire import encoded, length_prefix

MOST = 256
"""Number of beginnings that are kept."""
PARAMETERS = ModelInferResponse.DESCRIPTOR.fields_by_name["parameters"].number
INT64 = encoded(InferParameter.DESCRIPTOR.fields_by_name["int64_param"].number << 3 | VARINT)
KEY, VALUE = 1, 2
"""Fields of a map's entry, in any message of protobuf."""
QUEUE, COMPUTE = (length_prefix(KEY, len(name)) + name for name in (b"queue_us", b"compute_us"))
PARAMETERS_TAG, VALUE_TAG = encoded(PARAMETERS << 3 | BYTES), encoded(VALUE << 3 | BYTES)


@dataclass(frozen=True, slots=True)
class _Beginning:
    """The fields that are the same in each answer; dtype on the wire and length prefix of each output's values."""

    fields: bytes
    outputs: tuple[tuple[np.dtype[np.generic], bytes], ...]


class Answers:
    """Makes the bytes of answers. Belongs to one event loop."""

    def __init__(self) -> None:
        self._beginnings: dict[object, _Beginning] = {}

    def serialized(self, model: str, version: str, name: str, wanted: Sequence[str], served: Response) -> bytes:
        """The answer of `model` to the request whose id is `name`, with the `wanted` outputs, as serialize_response().

        Raises TooLargeError.
        """
        if name or served.lowering is not None:
            return serialize_response(response_of(model, version, name, served), wanted, served.outputs)
        arrays = [served.outputs[each] for each in wanted]
        shapes = [(each, array.dtype, array.shape) for each, array in zip(wanted, arrays, strict=True)]
        key = model, version, served.level.index, served.level.density, served.accuracy, *shapes
        beginning = self._beginnings.get(key)
        if beginning is None:
            if sum(array.nbytes for array in arrays) > MAX_MESSAGE_BYTES:
                return serialize_response(response_of(model, version, name, served), wanted, served.outputs)
            beginning = self._kept(key, model, version, wanted, served)
        pieces: list[Any] = [beginning.fields, _entry(QUEUE, served.queue_us), _entry(COMPUTE, served.compute_us)]
        for (dtype, prefix), array in zip(beginning.outputs, arrays, strict=True):
            pieces += (prefix, np.ascontiguousarray(array, dtype))
        return b"".join(pieces)

    def _kept(self, key: object, model: str, version: str, wanted: Sequence[str], served: Response) -> _Beginning:
        response = ModelInferResponse(model_name=model, model_version=version, parameters=served_parameters(served))
        for name in ("queue_us", "compute_us"):
            del response.parameters[name]
        outputs = []
        for name in wanted:
            array = served.outputs[name]
            datatype = datatype_of(array.dtype.name)
            response.outputs.add(name=name, datatype=datatype.name, shape=array.shape)
            outputs.append((datatype.dtype, length_prefix(RAW_OUTPUT_CONTENTS, array.nbytes)))
        if len(self._beginnings) >= MOST:
            self._beginnings.clear()
        beginning = self._beginnings[key] = _Beginning(response.SerializeToString(), tuple(outputs))
        return beginning


def response_of(model: str, version: str, name: str, served: Response) -> ModelInferResponse:
    """The answer to the request whose id is `name`, without outputs."""
    return ModelInferResponse(model_name=model, model_version=version, id=name, parameters=served_parameters(served))


def _entry(key: bytes, value: int) -> bytes:
    """The parameter of that encoded key and that integer value."""
    varint = encoded(value & (1 << 64) - 1)
    size = len(INT64) + len(varint)
    sizes = bytes((len(key) + len(VALUE_TAG) + 1 + size, size))  # of the entry and of its value, both below 128
    return b"".join((PARAMETERS_TAG, sizes[:1], key, VALUE_TAG, sizes[1:], INT64, varint))
