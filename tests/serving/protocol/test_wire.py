"""Wire size: the measured content of a request before parsing, at a cost that does not grow with it."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.errors import InputError
from nested_sparse.proto.messages import ModelInferRequest
from nested_sparse.serving.protocol.wire import HEADER_BYTES, VARINT_BYTES, length_prefix, split_infer_request


def delimited(number: int, body: bytes) -> bytes:
    """A field of bytes, as protobuf encodes it."""
    return length_prefix(number, len(body)) + body


class Counted(bytes):
    """Bytes that count how many of them are looked at."""

    looks = 0

    def __getitem__(self, place):
        self.looks += 1
        return super().__getitem__(place)


TINY = 2_000_000
HOSTILE = {
    "outputs": b"\x32\x00" * TINY,
    "inputs": b"\x2a\x00" * TINY,
    "raw contents": b"\x3a\x00" * TINY,
    "parameters": b"\x22\x00" * TINY,
    "unknown fields": b"\x78\x00" * TINY,
    "parameters of an input": delimited(5, b"\x22\x00" * TINY),
    "parameters of an output": delimited(6, b"\x12\x00" * TINY),
    "dimensions": delimited(5, delimited(3, b"\x01" * TINY)),
    "dimensions one by one": delimited(5, b"\x18\x01" * TINY),
    "contents of an input": delimited(5, b"\x2a\x00" * TINY),
    "contents not packed": delimited(5, delimited(5, b"\x08\x01" * TINY)),
    "bytes contents": delimited(5, delimited(5, b"\x42\x00" * TINY)),
    "integers": delimited(5, delimited(5, delimited(3, b"\x01" * TINY))),
    "integers in parts": delimited(5, delimited(5, delimited(3, b"\x01" * 100) * (TINY // 100))),
    "booleans of several inputs": delimited(5, delimited(5, delimited(1, b"\x01" * (TINY // 4)))) * 4,
    "name": delimited(1, b"x" * TINY),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_messages_that_are_costly_to_parse_are_refused_early(body: bytes) -> None:
    data = Counted(body)
    with pytest.raises(InputError, match=f"The request has more than ({HEADER_BYTES}|{VARINT_BYTES}) bytes"):
        split_infer_request(data)
    assert data.looks <= HEADER_BYTES // 2


def whole_request(raw: bool) -> bytes:
    """2 MB in two inputs, with parameters and outputs."""
    request = ModelInferRequest(model_name="net", id="seven")
    request.parameters["slo_ms"].double_param = 20.0
    values = np.arange(250_000, dtype=np.float32)
    for name in ("a", "b"):
        tensor = request.inputs.add(name=name, datatype="FP32", shape=[2, 125_000])
        if raw:
            request.raw_input_contents.append(values.tobytes())
        else:
            tensor.contents.fp32_contents.extend(values)
    request.outputs.add(name="y")
    data: bytes = request.SerializeToString()
    return data


@pytest.mark.parametrize("raw", [True, False])
def test_large_tensors_pass_without_a_look_at_their_values(raw: bool) -> None:
    data = Counted(whole_request(raw))
    split_infer_request(data)
    assert data.looks < 200


def test_integers_up_to_the_limit_pass() -> None:
    split_infer_request(delimited(5, delimited(5, delimited(3, b"\x01" * VARINT_BYTES))))


@given(st.binary(max_size=300))
def test_messages_that_the_parser_accepts_are_not_called_malformed(data: bytes) -> None:
    """Groups, which the protocol never had, are the exception."""
    try:
        ModelInferRequest.FromString(data)
    except DecodeError:
        return
    try:
        split_infer_request(data)
    except InputError:
        assert any(byte & 7 in (3, 4) for byte in data)


@given(st.binary(max_size=100), st.data())
def test_a_request_that_is_cut_off_is_refused_or_parsed(noise: bytes, data: st.DataObject) -> None:
    """It never ends in another error, whatever lengths it claims."""
    whole = delimited(5, delimited(1, b"x") + delimited(5, delimited(6, bytes(40)))) + delimited(7, bytes(40)) + noise
    with contextlib.suppress(InputError):
        split_infer_request(whole[: data.draw(st.integers(0, len(whole)))])
