"""Answers: the bytes of responses. The part that is the same for a level is made once, the rest without protobuf.

The order of the fields differs from protobuf's own, which its parsers allow.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nested_sparse.level import Level
from nested_sparse.proto.messages import InferParameter, ModelInferResponse
from nested_sparse.runtime.scheduling import Response
from nested_sparse.runtime.session import Array
from nested_sparse.wire import BYTES, VARINT

from .convert import MAX_MESSAGE_BYTES, RAW_OUTPUT_CONTENTS, serialize_response
from .datatype import datatype_of
from .parameters import served_parameters
from .wire import encoded, length_prefix

MOST = 256
"""Number of beginnings that are kept."""
MOST_ENTRIES = 4096
"""Number of encoded times that are kept: they are whole microseconds, and short ones come again."""
PARAMETERS = ModelInferResponse.DESCRIPTOR.fields_by_name["parameters"].number
INT64 = encoded(InferParameter.DESCRIPTOR.fields_by_name["int64_param"].number << 3 | VARINT)
KEY, VALUE = 1, 2
"""Fields of a map's entry, in any message of protobuf."""
QUEUE, COMPUTE = (length_prefix(KEY, len(name)) + name for name in (b"queue_us", b"compute_us"))
PARAMETERS_TAG, VALUE_TAG = encoded(PARAMETERS << 3 | BYTES), encoded(VALUE << 3 | BYTES)


@dataclass(frozen=True, slots=True)
class _Beginning:
    """The fields that are the same in each answer of `level`.

    outputs: of each, the dtype here, the dtype on the wire, and the length prefix of its values.
    """

    level: Level
    fields: bytes
    outputs: tuple[tuple[np.dtype[np.generic], np.dtype[np.generic], bytes], ...]

    def fits(self, level: Level, arrays: Sequence[Array]) -> bool:
        """Whether it is the beginning of an answer of that level; the shapes are in its key."""
        if self.level is not level:  # of another model of the same name
            return False
        for (dtype, _, _), array in zip(self.outputs, arrays, strict=True):  # noqa: SIM110 -- twice as fast as all()
            if array.dtype != dtype:
                return False
        return True


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
        level = served.level
        key = model, version, level.index, tuple(wanted), *[array.shape for array in arrays]
        beginning = self._beginnings.get(key)
        if beginning is None or not beginning.fits(level, arrays):
            if sum(array.nbytes for array in arrays) > MAX_MESSAGE_BYTES:
                return serialize_response(response_of(model, version, name, served), wanted, served.outputs)
            beginning = self._kept(key, model, version, wanted, served)
        pieces: list[Any] = [beginning.fields, _entry(QUEUE, served.queue_us), _entry(COMPUTE, served.compute_us)]
        for (dtype, on_wire, prefix), array in zip(beginning.outputs, arrays, strict=True):
            ready = dtype is on_wire and array.ndim and array.flags.c_contiguous
            pieces += (prefix, array if ready else np.ascontiguousarray(array, on_wire))
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
            outputs.append((array.dtype, datatype.dtype, length_prefix(RAW_OUTPUT_CONTENTS, array.nbytes)))
        if len(self._beginnings) >= MOST:
            self._beginnings.clear()
        beginning = self._beginnings[key] = _Beginning(served.level, response.SerializeToString(), tuple(outputs))
        return beginning


def response_of(model: str, version: str, name: str, served: Response) -> ModelInferResponse:
    """The answer to the request whose id is `name`, without outputs."""
    return ModelInferResponse(model_name=model, model_version=version, id=name, parameters=served_parameters(served))


@functools.lru_cache(maxsize=MOST_ENTRIES)
def _entry(key: bytes, value: int) -> bytes:
    """The parameter of that encoded key and that integer value."""
    varint = encoded(value & (1 << 64) - 1)
    size = len(INT64) + len(varint)
    sizes = bytes((len(key) + len(VALUE_TAG) + 1 + size, size))  # of the entry and of its value, both below 128
    return b"".join((PARAMETERS_TAG, sizes[:1], key, VALUE_TAG, sizes[1:], INT64, varint))
