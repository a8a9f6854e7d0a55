"""Extended answers: those to requests that want classes of an output, or an output in shared memory."""

from __future__ import annotations

from collections.abc import Sequence

from nested_sparse.runtime.scheduling import Response

from ..served_model import ServedModel
from .answers import response_of
from .call import Call
from .classification import classified
from .convert import serialize_response


def extended_answer(model: ServedModel, call: Call, wanted: Sequence[str], served: Response) -> bytes:
    """The bytes of the answer to `call` with the `wanted` outputs. Raises TooLargeError, InputError."""
    outputs = dict(served.outputs)
    for spec in model.outputs:
        if spec.name in call.classes:
            outputs[spec.name] = classified(outputs[spec.name], call.classes[spec.name], spec.has_batch)
    return serialize_response(response_of(model.name, model.version, call.id, served), wanted, outputs, call.places)
