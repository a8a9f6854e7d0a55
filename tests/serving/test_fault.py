"""Faults: every error's status reaches the client, with its text cut to the limit of trailing metadata."""

from __future__ import annotations

from urllib.parse import quote

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.errors import CheckpointError, InputError, NotFoundError, OverloadedError
from nested_sparse.proto import messages
from nested_sparse.serving.fault import MESSAGE_BYTES, Ending, message_of

X = np.arange(8, dtype=np.float32).reshape(2, 4)
PRINTABLE = "".join(map(chr, range(32, 127))).replace("%", "")
HOSTILE = ["x" * 20_000, "é" * 7_000, "\U0001f600" * 4_000, "%" * 20_000, "\x1b[2J\n" * 4_000, "\u202e" * 6_000]


def sent(text: str) -> int:
    """Bytes of a status message as gRPC sends it, percent-encoded."""
    return len(quote(text, safe=PRINTABLE))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=3000))
def test_a_message_is_one_line_and_at_most_a_kilobyte_as_it_is_sent(text: str) -> None:
    for error in (InputError(text), OverloadedError(text, 1.0), MemoryError(text)):
        assert sent(message_of(error)) <= MESSAGE_BYTES
        assert message_of(error).isprintable()


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_the_trailers_of_a_failed_call_stay_far_below_the_limit_of_clients(text: str) -> None:
    """The advice behind a text that is cut survives."""
    ending = Ending.of(OverloadedError(text, 12.2))
    assert ending.message.endswith("; retry after 13 ms")
    sizes = [len(value) * 4 // 3 for _, value in ending.trailers]  # base64, at worst
    assert sent(ending.message) + sum(sizes) < 4096
    assert sent(Ending.of(CheckpointError("x"), text).message) <= MESSAGE_BYTES


def test_short_messages_stay_as_they_are() -> None:
    assert message_of(NotFoundError("There is no model 'ü' here.")) == "There is no model 'ü' here."


def infer_request(**changes):
    request = messages.ModelInferRequest(**{"model_name": "net", **changes})
    request.inputs.add(name="x", datatype="FP32", shape=X.shape)
    request.raw_input_contents.append(X.tobytes())
    return request


def in_place_of(text, field):
    """The request with `text` where a client may write what it likes."""
    if field in ("model_name", "model_version"):
        return infer_request(**{field: text})
    request = infer_request()
    if field == "output":
        request.outputs.add(name=text)
    elif field == "input":
        request.inputs[0].name = text
    elif field == "datatype":
        request.inputs[0].datatype = text
    elif field == "output twice":
        for _ in range(2):
            request.outputs.add(name=text)
    elif field == "shared memory":
        request.inputs[0].name = text
        request.inputs[0].parameters["shared_memory_region"].string_param = text
    return request


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize(
    ("field", "status", "words"),
    [
        ("model_name", "NOT_FOUND", "' here; RepositoryIndex lists those that are."),
        ("model_version", "NOT_FOUND", "'; expected '1' or none."),
        ("input", "INVALID_ARGUMENT", "this model takes ['x']"),
        ("datatype", "INVALID_ARGUMENT", "INT64, FP16, BF16, FP32, FP64."),
        ("output", "INVALID_ARGUMENT", "'; expected 'sum', 'double'."),
        ("output twice", "INVALID_ARGUMENT", "' is asked for twice; expected each output once."),
        ("shared memory", "INVALID_ARGUMENT", "this server does not allow; send the values raw."),
    ],
)
def test_names_of_any_length_end_in_their_own_status(server, field, status, words, text) -> None:
    """The rest of the message is still there beside the name."""
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(f"/{messages.SERVICE_NAME}/ModelInfer").future(
            in_place_of(text, field).SerializeToString(), timeout=60
        )
        assert (call.code().name, sent(call.details()) <= MESSAGE_BYTES) == (status, True)
    assert words in call.details()
    assert call.details().isprintable()
