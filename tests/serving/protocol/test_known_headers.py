"""Known headers: requests that are read by their header are read as protobuf reads them, or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.errors import InputError, NotFoundError
from nested_sparse.proto.messages import ModelInferRequest
from nested_sparse.runtime.session import check_inputs
from nested_sparse.serving.protocol.convert import Bounds, parse_infer_request, read_call
from nested_sparse.serving.protocol.datatype import DATATYPES
from nested_sparse.serving.protocol.known_headers import (
    MOST_BYTES,
    MOST_LENGTHS,
    MOST_OF_A_LENGTH,
    KnownHeaders,
    KnownRequest,
)
from nested_sparse.serving.protocol.wire import length_prefix
from nested_sparse.serving.shared_memory.regions import Regions
from nested_sparse.tensor_spec import TensorSpec

BOUNDS = Bounds(2, 2)
SPECS = (TensorSpec("x", "float32", (None, None), (1, 4)), TensorSpec("n", "int64", (None, None), (1, 4)))
ONE = (TensorSpec("x", "float32", (None,), (1,)),)


def request(values: float = 1.0, shape: tuple[int, ...] = (2, 4), name: str = "net", **fields: object) -> bytes:
    """A request of two inputs, FP32 and INT64."""
    message = ModelInferRequest(model_name=name, **fields)
    message.parameters["slo_ms"].double_param = 20.0
    message.parameters["timeout"].int64_param = 30_000
    for name_, datatype, dtype in (("x", "FP32", np.float32), ("n", "INT64", np.int64)):
        message.inputs.add(name=name_, datatype=datatype, shape=shape)
        message.raw_input_contents.append(np.full(shape, values, dtype).tobytes())
    message.outputs.add(name="y")
    data: bytes = message.SerializeToString()
    return data


def taught(*requests: bytes, specs: tuple[TensorSpec, ...] = SPECS) -> KnownHeaders:
    """Headers that have met each of the requests twice."""
    headers = KnownHeaders()
    for data in (*requests, *requests):
        headers.learn(parse_infer_request(data), BOUNDS, specs)
    return headers


def assert_same_call(known: KnownRequest | None, data: bytes, left_s: float | None) -> None:
    """The call is that of read_call()."""
    assert known is not None
    got, expected = known.call(5.0, left_s), read_call(parse_infer_request(data), BOUNDS, 5.0, left_s)
    assert (got.outputs, got.id) == (expected.outputs, expected.id)
    for field in ("slo_ms", "min_accuracy", "level", "received_s", "timeout_ms"):
        assert getattr(got.request, field) == getattr(expected.request, field), field
    assert list(got.request.inputs) == list(expected.request.inputs)
    for name, array in expected.request.inputs.items():
        assert got.request.inputs[name].dtype == array.dtype
        np.testing.assert_array_equal(got.request.inputs[name], array)
    assert known.message.model_name == "net"


@pytest.mark.parametrize("shape", [(2, 4), (100, 300)])
@pytest.mark.parametrize("left_s", [None, 0.01, 10.0])
def test_a_known_request_is_read_as_any(shape, left_s):
    """Small ones, whose values protobuf copies, and large ones."""
    headers = taught(request(1.0, shape))
    other = request(7.0, shape)
    assert_same_call(headers.find(other), other, left_s)


def test_a_header_is_known_the_second_time_it_comes():
    headers = KnownHeaders()
    for known in (False, False, True):
        assert (headers.find(request()) is not None) == known
        headers.learn(parse_infer_request(request()), BOUNDS, SPECS)


@pytest.mark.parametrize(
    "data",
    [
        request(shape=(2, 5)),
        request(name="other"),
        request(model_version="1"),
        request()[:-1],
        request() + b"\0",
        request() + length_prefix(7, 3) + b"abc",
        request() + length_prefix(1, 3) + b"net",
        request()[: -len(length_prefix(7, 64)) - 64],
        b"",
    ],
)
def test_another_request_is_not_known(data):
    assert taught(request()).find(data) is None


def test_a_request_with_an_id_is_not_kept():
    assert taught(request(id="seven")).find(request(id="seven")) is None


def test_values_in_contents_are_not_kept():
    message = ModelInferRequest(model_name="net")
    message.inputs.add(name="x", datatype="FP32", shape=[2]).contents.fp32_contents.extend([1.0, 2.0])
    data = message.SerializeToString()
    assert taught(data, specs=ONE).find(data) is None


def test_bytes_that_end_within_a_field_are_not_kept():
    """The values are not last here: a name ends in bytes that look like them."""
    values = length_prefix(7, 4) + b"abcd"
    message = ModelInferRequest(model_name="net")
    message.inputs.add(name="x", datatype="FP32", shape=[1])
    data = message.SerializeToString() + values + length_prefix(2, len(values)) + values
    assert ModelInferRequest.FromString(data).model_version.endswith("abcd")
    assert taught(data, specs=ONE).find(data) is None


@pytest.mark.parametrize("datatype", DATATYPES, ids=lambda datatype: datatype.name)
def test_every_datatype_is_read_as_without_the_header(datatype):
    """BOOL is checked value by value, so it is not kept."""

    def of(values: bytes) -> bytes:
        message = ModelInferRequest(model_name="net")
        message.inputs.add(name="x", datatype=datatype.name, shape=[len(values) // datatype.dtype.itemsize])
        message.raw_input_contents.append(values)
        data: bytes = message.SerializeToString()
        return data

    name = "bfloat16" if datatype.name == "BF16" else datatype.dtype.name
    spec = TensorSpec("x", name, (None,), (1,))
    headers, other = taught(of(bytes(16)), specs=(spec,)), of(bytes(range(16)))
    if datatype.name == "BOOL":
        assert headers.find(other) is None
    else:
        assert_same_call(headers.find(other), other, None)


def test_what_is_kept_is_bounded():
    headers = KnownHeaders()
    for length in range(3 * MOST_LENGTHS):
        for number in range(2 * MOST_OF_A_LENGTH):
            for _ in range(2):
                data = request(name="n" * length + chr(48 + number))
                headers.learn(parse_infer_request(data), BOUNDS, SPECS)
    assert len(headers._headers) == MOST_LENGTHS
    assert all(len(each) <= MOST_OF_A_LENGTH for each in headers._headers.values())
    long = request(name="n" * MOST_BYTES)
    for _ in range(2):
        headers.learn(parse_infer_request(long), BOUNDS, SPECS)
    assert headers.find(long) is None


@given(st.integers(0, 200), st.binary(min_size=1, max_size=3))
def test_a_changed_request_is_never_read_otherwise_than_by_protobuf(place, change):
    """Found requests have the values that protobuf reads, after any change of their bytes."""
    headers = taught(request())
    data = bytearray(request(3.0))
    at = place % len(data)
    data[at : at + len(change)] = change
    known = headers.find(bytes(data))
    if known is not None:
        assert_same_call(known, bytes(data), None)


def test_inputs_in_another_order_are_not_kept():
    """Checked inputs are in the order of the model's."""
    assert taught(request(), specs=SPECS[::-1]).find(request()) is None


def test_known_inputs_need_no_other_check():
    """They fit those specs, and their values are at multiples of their size whatever the header's length is."""
    for name in ("n", "ne", "net", "nets", "netss"):
        known = taught(request(name=name)).find(request(3.0, name=name))
        assert known is not None
        inputs = known.call(0.0, None).request.inputs
        assert check_inputs(SPECS, inputs) is inputs
        assert all(array.flags.aligned for array in inputs.values())
        with pytest.raises(InputError, match="missing"):
            check_inputs(ONE + SPECS[1:2] + (TensorSpec("z", "float32", (None,), (1,)),), inputs)


def placed_request(nbytes: int = 32, offset: int = 0, **raw: float) -> bytes:
    """A request of two inputs; x is in the region `r`, n as well or, where its value is given, raw."""
    message = ModelInferRequest(model_name="net")
    for name, datatype in (("x", "FP32"), ("n", "INT64")):
        parameters = message.inputs.add(name=name, datatype=datatype, shape=[2, 4]).parameters
        if name in raw:
            message.raw_input_contents.append(np.full((2, 4), raw[name], np.int64).tobytes())
            continue
        parameters["shared_memory_region"].string_param = "r"
        parameters["shared_memory_byte_size"].int64_param = nbytes if name == "x" else 64
        parameters["shared_memory_offset"].int64_param = offset if name == "x" else 32
    data: bytes = message.SerializeToString()
    return data


@pytest.fixture
def memory(tmp_path):
    """A folder of shared memory with the region `r` of 96 bytes."""
    path = tmp_path / "values"
    path.write_bytes(np.arange(24, dtype=np.float32).tobytes())
    path.chmod(0o600)
    regions = Regions(1 << 20, tmp_path)
    regions.register("r", "/values", 0, 96)
    return regions


@pytest.mark.parametrize("raw", [{}, {"n": 5}])
def test_values_in_shared_memory_are_read_each_time(memory, tmp_path, raw):
    headers, bounds = KnownHeaders(memory), Bounds(2, 2, memory)
    for _ in range(2):
        headers.learn(parse_infer_request(placed_request(**raw)), bounds, SPECS)
    known = headers.find(placed_request(**raw))
    assert known is not None
    for first in (0, 100):
        (tmp_path / "values").write_bytes(np.arange(first, first + 24, dtype=np.float32).tobytes())
        expected = read_call(parse_infer_request(placed_request(**raw)), bounds, 0.0, None).request.inputs
        inputs = known.call(0.0, None).request.inputs
        np.testing.assert_array_equal(inputs["x"].ravel(), np.arange(first, first + 8))
        np.testing.assert_array_equal(inputs["n"], expected["n"])
        assert check_inputs(SPECS, inputs) is inputs
    assert headers.find(placed_request(offset=4, **raw)) is None
    assert headers.find(placed_request(**raw) + length_prefix(7, 1) + b"x") is None


def test_a_known_place_is_checked_each_time(memory, tmp_path):
    """The region may have shrunk, or be gone, since its header was learned."""
    headers, bounds = KnownHeaders(memory), Bounds(2, 2, memory)
    for _ in range(2):
        headers.learn(parse_infer_request(placed_request()), bounds, SPECS)
    known = headers.find(placed_request())
    assert known is not None
    (tmp_path / "values").write_bytes(bytes(40))
    with pytest.raises(InputError, match="has 40 bytes"):
        known.call(0.0, None)
    memory.unregister("r")
    with pytest.raises(NotFoundError):
        known.call(0.0, None)
