"""Text messages: a request for a text, in the protocol's words, and the response with one token.

The names are those that Triton's back ends for language models have: `text_input` and `text_output`, both BYTES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nested_sparse.argument import finite
from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt, excerpts
from nested_sparse.proto.messages import InferParameter, ModelInferRequest, ModelInferResponse
from nested_sparse.runtime.generation import TextRequest, Token

from ..protocol.classification import TEXTS, raw_texts
from ..protocol.parameters import (
    FINAL,
    INTEGER_KINDS,
    MS_PER_S,
    NUMBER_KINDS,
    RAW_OUTPUTS,
    SEQUENCE,
    US_PER_MS,
    check_known,
    check_raw,
    kind_of,
    served_parameters,
)
from ..rights.caller import client_name

INPUT, OUTPUT = "text_input", "text_output"
FINAL_RESPONSE = "triton_final_response"
LENGTH_BYTES = 4
READERS: Mapping[str, tuple[tuple[str, ...], Callable[[Any], object]]] = {
    "tokens_per_s": (NUMBER_KINDS, float),
    "max_tokens": (INTEGER_KINDS, int),
    "temperature": (NUMBER_KINDS, float),
    "seed": (INTEGER_KINDS, int),
    "stop": (("string_param",), lambda text: str(text).encode()),
    "level": (INTEGER_KINDS, int),
    "min_accuracy": (NUMBER_KINDS, float),
    "priority": (INTEGER_KINDS, lambda rank: rank or None),
}
"""The parameters that are fields of TextRequest: their types, and what makes the field of the value."""
KNOWN = (*READERS, "timeout", FINAL, RAW_OUTPUTS)


def asks_for_text(message: ModelInferRequest) -> bool:
    """Whether the message has a text. No graph of a checkpoint has an input of this type."""
    return any(tensor.datatype == TEXTS for tensor in message.inputs)


def read_text_request(message: ModelInferRequest, time_left_s: float | None) -> TextRequest:
    """The request in `message`. time_left_s: seconds from arrival to the transport's deadline; None: there is none.

    Raises InputError.
    """
    parameters = message.parameters
    if sequence := [name for name in SEQUENCE if name in parameters]:
        raise InputError(
            f"The request has the parameter {sequence[0]!r}, but a text keeps its own state; leave it out."
        )
    check_known(parameters, "The request for a text", KNOWN)
    check_raw(parameters, RAW_OUTPUTS, "The request")
    if FINAL in parameters:
        kind_of(parameters, FINAL, ("bool_param",))
    if unknown := [output.name for output in message.outputs if output.name != OUTPUT or output.parameters]:
        raise InputError(f"The request for a text asks for [{excerpts(unknown)}]; expected {OUTPUT}, as it is.")
    timeout_ms = None if time_left_s is None else MS_PER_S * time_left_s
    if timeout_us := _value(parameters, "timeout", INTEGER_KINDS):
        given_ms = finite("timeout", timeout_us, 0) / US_PER_MS
        timeout_ms = given_ms if timeout_ms is None else min(given_ms, timeout_ms)
    fields = {
        name: make(_value(parameters, name, kinds)) for name, (kinds, make) in READERS.items() if name in parameters
    }
    return TextRequest(_prompt(message), timeout_ms=timeout_ms, client=client_name.get(), **fields)  # type: ignore[arg-type]


def _value(parameters: Mapping[str, InferParameter], name: str, kinds: tuple[str, ...]) -> float | str | None:
    if name not in parameters:  # looking a key up in a protobuf map would create it
        return None
    value: float | str = getattr(parameters[name], kind_of(parameters, name, kinds))
    return value


def _prompt(message: ModelInferRequest) -> bytes:
    if len(message.inputs) != 1:
        raise InputError(f"The request for a text has {len(message.inputs)} inputs; expected {INPUT!r} alone.")
    (tensor,) = message.inputs
    if tensor.name != INPUT:
        raise InputError(f"The request for a text has the input '{excerpt(tensor.name)}'; expected {INPUT!r}.")
    if tensor.parameters or len(message.raw_input_contents) > 1:
        raise InputError(f"Input {INPUT!r}: expected one text without parameters, in the message itself.")
    if any(size != 1 for size in tensor.shape) or len(tensor.shape) > 2:
        raise InputError(f"Input {INPUT!r} has shape {list(tensor.shape)}; expected one text, [1] or [1, 1].")
    if not message.raw_input_contents:
        texts = list(tensor.contents.bytes_contents)
        if len(texts) != 1 or len(tensor.contents.ListFields()) != 1:
            raise InputError(f"Input {INPUT!r}: expected one text in bytes_contents, got {len(texts)}.")
        return texts[0]
    if tensor.HasField("contents"):
        raise InputError(f"Input {INPUT!r} has both contents and raw_input_contents; expected one of them.")
    raw = bytes(message.raw_input_contents[0])
    stated = int.from_bytes(raw[:LENGTH_BYTES], "little")
    if len(raw) != LENGTH_BYTES + stated:
        raise InputError(
            f"Input {INPUT!r} has {len(raw)} bytes; expected the length of one text in {LENGTH_BYTES} bytes, and it."
        )
    return raw[LENGTH_BYTES:]


def token_response(message: ModelInferRequest, version: str, token: Token) -> ModelInferResponse:
    """The response with one token of the text that `message` asks for."""
    response = ModelInferResponse(
        model_name=message.model_name,
        model_version=version,
        id=message.id,
        parameters=served_parameters(token.response),
        raw_output_contents=[raw_texts(np.array([token.text], object))],
    )
    response.outputs.add(name=OUTPUT, datatype=TEXTS, shape=[1])
    response.parameters[FINAL_RESPONSE].bool_param = bool(token.finish)
    if token.finish:
        response.parameters["finish_reason"].string_param = token.finish
    if token.late:
        response.parameters["late"].bool_param = True
    return response
