"""Conversion: requests to arrays, arrays to responses, and one sentence for each misfit."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from nested_sparse.bfloat16 import BFLOAT16
from nested_sparse.errors import InputError, TooLargeError
from nested_sparse.proto.messages import InferTensorContents, ModelInferRequest, ModelInferResponse
from nested_sparse.serving.protocol.convert import (
    AT_ONCE,
    Bounds,
    InferRequest,
    parse_infer_request,
    read_call,
    serialize_response,
)
from nested_sparse.serving.protocol.datatype import DATATYPES, datatype_of

RNG = np.random.default_rng(0)


def values(datatype, shape=(2, 3)):
    if datatype.dtype.kind == "f":
        return RNG.standard_normal(shape).astype(datatype.dtype)
    if datatype.dtype.kind == "b":
        return RNG.integers(0, 2, shape).astype(bool)
    if datatype.dtype == BFLOAT16:
        return RNG.integers(0, 1 << 16, shape, np.uint16).view(BFLOAT16)
    limits = np.iinfo(datatype.dtype)
    array = RNG.integers(limits.min, limits.max, shape, datatype.dtype, endpoint=True)
    array.flat[0], array.flat[1] = limits.min, limits.max
    return array


def raw_request(array, datatype="FP32", shape=None, name="x"):
    request = ModelInferRequest(model_name="net")
    request.inputs.add(name=name, datatype=datatype, shape=array.shape if shape is None else shape)
    request.raw_input_contents.append(array.tobytes())
    return request


def typed_request(contents, datatype="FP32", shape=(2,)):
    request = ModelInferRequest()
    request.inputs.add(name="x", datatype=datatype, shape=shape, contents=InferTensorContents(**contents))
    return request


def read(request):
    return read_call(InferRequest(request, request.raw_input_contents), Bounds(2, 3), 0.0, None)


@pytest.mark.parametrize("datatype", DATATYPES, ids=lambda datatype: datatype.name)
def test_raw_round_trip(datatype):
    """Every datatype arrives as the same bits, raw."""
    array = values(datatype)
    call = read(raw_request(array, datatype.name))
    assert call.request.inputs["x"].dtype == datatype.dtype
    np.testing.assert_array_equal(call.request.inputs["x"], array)


@pytest.mark.parametrize("datatype", [each for each in DATATYPES if each.contents], ids=lambda datatype: datatype.name)
def test_typed_round_trip(datatype):
    """Every datatype that has a contents field arrives through it."""
    array = values(datatype)
    call = read(typed_request({datatype.contents: array.ravel().tolist()}, datatype.name, array.shape))
    assert call.request.inputs["x"].dtype == datatype.dtype
    np.testing.assert_array_equal(call.request.inputs["x"], array)


@pytest.mark.parametrize("count", [2, 40_000])
def test_raw_values_of_any_size_keep_their_places(count):
    """Between, before and behind other fields; large ones are views of what came, not copies."""
    request = ModelInferRequest(model_name="net", id="seven")
    request.parameters["level"].int64_param = 1
    arrays = {"a": values(datatype_of("float32"), (count,)), "b": values(datatype_of("int8"), (count, 2))}
    for name, array in arrays.items():
        request.inputs.add(name=name, datatype=datatype_of(array.dtype.name).name, shape=array.shape)
    head = request.SerializeToString()
    first, second = (ModelInferRequest(raw_input_contents=[array.tobytes()]) for array in arrays.values())
    tail = ModelInferRequest(outputs=[ModelInferRequest.InferRequestedOutputTensor(name="y")])
    data = first.SerializeToString() + head + second.SerializeToString() + tail.SerializeToString()
    received = parse_infer_request(data)
    call = read_call(received, Bounds(2, 3), 0.0, None)
    for name, array in arrays.items():
        np.testing.assert_array_equal(call.request.inputs[name], array)
        assert not call.request.inputs[name].flags.writeable
    assert (call.outputs, call.request.level, call.id) == (("y",), 1, "seven")
    if count > 2:
        assert not received.message.raw_input_contents
        assert all(np.shares_memory(call.request.inputs[name], np.frombuffer(data, np.uint8)) for name in arrays)


def test_bool_bytes_are_normalised():
    """Any byte but 0 is true."""
    request = raw_request(np.array([0, 1, 2, 255], np.uint8), "BOOL")
    call = read(request)
    np.testing.assert_array_equal(call.request.inputs["x"].view(np.uint8), [0, 1, 1, 1])


def test_scalar_has_one_element():
    """An empty shape is a scalar."""
    assert read(raw_request(np.float32(3.5), shape=())).request.inputs["x"] == 3.5


def test_several_inputs_keep_their_raw_order():
    """The n-th raw entry belongs to the n-th input."""
    request = raw_request(np.float32([1, 2]), name="b")
    request.inputs.add(name="a", datatype="INT8", shape=[3])
    request.raw_input_contents.append(np.int8([-1, 0, 1]).tobytes())
    call = read(request)
    np.testing.assert_array_equal(call.request.inputs["b"], np.float32([1, 2]))
    np.testing.assert_array_equal(call.request.inputs["a"], np.int8([-1, 0, 1]))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (raw_request(np.float32([1, 2]), shape=[3]), "'x' has the wrong size: FP32 of shape .3. takes 12 bytes, got 8"),
        (raw_request(np.float32([1, 2]), shape=[1]), "takes 4 bytes, got 8"),
        (raw_request(np.float32([1, 2]), shape=[-2]), "expected sizes of 1 or more"),
        (raw_request(np.float32([]), shape=[0, 2**62]), "expected sizes of 1 or more"),
        (raw_request(np.float32([1]), shape=[1] * 33), "'x' has 33 dimensions; expected at most 32"),
        (raw_request(np.float32([1, 2]), shape=[2**62, 2**62]), "got 8"),
        (raw_request(np.float32([1, 2]), "BYTES"), "datatype 'BYTES'; expected one of BOOL"),
        (raw_request(np.float32([1, 2]), ""), "datatype ''; expected one of"),
        (typed_request({"fp32_contents": [1.0]}), "takes 2 elements, got 1"),
        (typed_request({}), "takes 2 elements, got 0"),
        (typed_request({"fp64_contents": [1.0, 2.0]}), "'x' is FP32: expected fp32_contents, got fp64_contents"),
        (typed_request({"fp32_contents": [1.0, 2.0]}, "FP16"), "FP16, which has no contents field; send raw"),
        (typed_request({"int_contents": [0, 128]}, "INT8"), "'x' is INT8, which cannot hold 128"),
        (typed_request({"uint_contents": [0, 65536]}, "UINT16"), "'x' is UINT16, which cannot hold 65536"),
        (ModelInferRequest(), "The request has no inputs"),
    ],
)
def test_misfitting_inputs_are_refused(request_, message):
    """A misfit is refused with the expected and the given value."""
    with pytest.raises(InputError, match=message):
        read(request_)


def test_raw_and_contents_are_refused_together():
    """Contents beside raw entries are ambiguous."""
    request = typed_request({"fp32_contents": [1.0, 2.0]})
    request.raw_input_contents.append(np.float32([1, 2]).tobytes())
    with pytest.raises(InputError, match="both contents and raw_input_contents"):
        read(request)


def test_raw_count_must_match():
    """One raw entry for each input."""
    request = raw_request(np.float32([1, 2]))
    request.raw_input_contents.append(b"")
    with pytest.raises(InputError, match="2 raw_input_contents for 1 inputs"):
        read(request)


def test_one_input_twice_is_refused():
    """The last one does not silently win."""
    request = raw_request(np.float32([1, 2]))
    request.inputs.add(name="x", datatype="FP32", shape=[1])
    request.raw_input_contents.append(np.float32([1]).tobytes())
    with pytest.raises(InputError, match="'x' is given twice"):
        read(request)


def test_parameters_of_tensors_are_obeyed_or_refused():
    """Shared memory that is not allowed, and parameters of other extensions, are not ignored."""
    request = raw_request(np.float32([1, 2]))
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"
    with pytest.raises(InputError, match="'x' is in shared memory"):
        read(request)
    request = raw_request(np.float32([1, 2]))
    request.outputs.add(name="y").parameters["classification"].int64_param = 3
    assert read(request).classes == {"y": 3}
    request.outputs[0].parameters["binary_data"].bool_param = True
    assert read(request).classes == {"y": 3}
    request.outputs[0].parameters["binary_data"].bool_param = False
    with pytest.raises(InputError, match="Output 'y': parameter 'binary_data': expected true"):
        read(request)
    del request.outputs[0].parameters["binary_data"]
    request.outputs[0].parameters["mine"].bool_param = True
    with pytest.raises(InputError, match=r"Output 'y' has unknown parameters \['mine'\]"):
        read(request)
    request = raw_request(np.float32([1, 2]))
    request.inputs[0].parameters["content_type"].string_param = "np"
    with pytest.raises(InputError, match=r"Input 'x' has unknown parameters \['content_type'\]"):
        read(request)


def test_a_stated_number_of_raw_bytes_is_checked():
    """KServe's client states it; typed values have none."""
    request = raw_request(np.float32([1, 2]))
    request.inputs[0].parameters["binary_data_size"].int64_param = 8
    np.testing.assert_array_equal(read(request).request.inputs["x"], np.float32([1, 2]))
    request.inputs[0].parameters["binary_data_size"].int64_param = 4
    with pytest.raises(InputError, match="'x' has 8 bytes, its 'binary_data_size' says 4"):
        read(request)
    request = typed_request({"fp32_contents": [1, 2]})
    request.inputs[0].parameters["binary_data_size"].int64_param = 8
    with pytest.raises(InputError, match="'binary_data_size' and no raw values"):
        read(request)


class Untouched(Sequence):
    """A repeated field of that many elements, none of which may be looked at."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, place):
        raise AssertionError(f"element {place} of {self.count} was looked at")

    __iter__ = __contains__ = __getitem__


def stand_in(**changes):
    """A request of one input, whose other fields may be what no message can hold."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [2], "parameters": {}, "HasField": lambda name: False}
    tensor |= {name.removeprefix("input_"): changes.pop(name) for name in list(changes) if name.startswith("input_")}
    fields = {"inputs": [SimpleNamespace(**tensor)], "outputs": [], "parameters": {}, "raw_input_contents": [bytes(8)]}
    return SimpleNamespace(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": Untouched(120_000)}, "120000 inputs, this model has 2"),
        ({"outputs": Untouched(100_000)}, "100000 outputs, this model has 3"),
        ({"raw_input_contents": Untouched(2)}, "2 raw_input_contents for 1 inputs"),
        ({"parameters": Untouched(65)}, "The request has 65 parameters; expected at most 64"),
        ({"input_parameters": Untouched(65)}, "Input 'x' has 65 parameters"),
        ({"outputs": [SimpleNamespace(name="y", parameters=Untouched(65))]}, "Output 'y' has 65 parameters"),
        ({"input_shape": Untouched(33)}, "Input 'x' has 33 dimensions"),
        (
            {
                "raw_input_contents": [],
                "input_contents": SimpleNamespace(ListFields=lambda: [], fp32_contents=Untouched(3)),
            },
            "shape .2. takes 2 elements, got 3",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_no_field_is_looked_into_that_has_more_than_the_model(changes, message):
    """So the model, not the client, bounds the cost of a request."""
    with pytest.raises(InputError, match=message):
        read(stand_in(**changes))


def test_many_integers_arrive_through_contents_and_the_last_is_checked():
    """They are converted in parts."""
    array = RNG.integers(-128, 127, 2 * AT_ONCE + 7, np.int8)
    request = typed_request({"int_contents": array.tolist()}, "INT8", array.shape)
    np.testing.assert_array_equal(read(request).request.inputs["x"], array)
    request.inputs[0].contents.int_contents[-1] = 128
    with pytest.raises(InputError, match="INT8, which cannot hold 128"):
        read(request)


def test_fields_that_no_version_of_the_protocol_has_do_not_become_values():
    """They lie behind the values on the wire."""
    request = typed_request({"fp32_contents": [1.0, 2.0]})
    contents = request.inputs[0].contents
    contents.MergeFromString(b"\x9d\x06\x00\x00\x80\x40")  # field 99, four bytes
    np.testing.assert_array_equal(read(request).request.inputs["x"], np.float32([1, 2]))


@pytest.mark.parametrize("text", ["x" * 20_000, "\x1b[31m\n"])
def test_names_are_cut_and_escaped_in_messages(text):
    """The text before and after a name stays complete."""
    request = raw_request(np.float32([1, 2]), text)
    with pytest.raises(InputError, match="expected one of BOOL") as caught:
        read(request)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_outputs_may_be_asked_for_in_any_order():
    """Asked for in any order, each once; none means all."""
    request = raw_request(np.float32([1, 2]))
    assert read(request).outputs == ()
    request.outputs.add(name="b")
    request.outputs.add(name="a")
    assert read(request).outputs == ("b", "a")
    request.outputs.add(name="b")
    with pytest.raises(InputError, match="'b' is asked for twice"):
        read(request)


def test_outputs_are_written_raw():
    """Strided and big-endian arrays leave as little-endian rows."""
    strided = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2]
    swapped = np.array([1, 2], ">i4")
    response = ModelInferResponse(model_name="net")
    data = serialize_response(response, ["b", "a"], {"a": strided, "b": swapped})
    response = ModelInferResponse.FromString(data)
    assert response.model_name == "net"
    assert [(each.name, each.datatype, list(each.shape)) for each in response.outputs] == [
        ("b", "INT32", [2]),
        ("a", "FP32", [3, 2]),
    ]
    assert response.raw_output_contents[0] == np.array([1, 2], "<i4").tobytes()
    assert response.raw_output_contents[1] == np.float32([0, 2, 4, 6, 8, 10]).tobytes()


@pytest.mark.parametrize("datatype", DATATYPES, ids=lambda datatype: datatype.name)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3), (1, 128), (70_000, 4)], ids=str)
def test_outputs_of_every_type_and_size_round_trip(datatype, shape):
    """No elements and 100 kB included: the length before them grows with them."""
    array = np.resize(values(datatype), shape)
    response = ModelInferResponse.FromString(serialize_response(ModelInferResponse(), ["y"], {"y": array}))
    assert (response.outputs[0].datatype, tuple(response.outputs[0].shape)) == (datatype.name, shape)
    assert response.raw_output_contents[0] == array.tobytes()


def test_an_answer_that_no_message_holds_is_refused():
    """The error comes before the answer is copied."""
    huge = np.broadcast_to(np.zeros(1, np.int8), (1 << 31,))
    with pytest.raises(TooLargeError, match="The answer has 2147483648 bytes"):
        serialize_response(ModelInferResponse(), ["y"], {"y": huge})


def test_dtype_without_a_name_is_refused():
    """Complex numbers cannot travel."""
    with pytest.raises(InputError, match="complex64 cannot be served"):
        datatype_of("complex64")
