"""Hostile requests: costly ones are refused while others are served, on real sockets."""

from __future__ import annotations

import threading

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from nested_sparse.proto import messages
from nested_sparse.serving import servicer
from nested_sparse.serving.server import Server

X = np.arange(8, dtype=np.float32).reshape(2, 4)
PATIENCE_S = 60.0
HUGE = "x" * 100_000


@pytest.fixture
def channel(server: Server):
    with grpc.insecure_channel(server.address) as it:
        yield it


def ask(channel, method, request, service=messages.SERVICE_NAME):
    """A call under way, of a message or of bytes, whose answer stays bytes."""
    data = request if isinstance(request, bytes) else request.SerializeToString()
    return channel.unary_unary(f"/{service}/{method}").future(data, timeout=PATIENCE_S)


def infer_request(array=X, datatype="FP32", model="net"):
    request = messages.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype=datatype, shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
    return request


def with_outputs(count):
    request = infer_request()
    for index in range(count):
        request.outputs.add(name=f"o{index}")
    return request


def with_inputs(count):
    request = infer_request()
    for index in range(count):
        request.inputs.add(name=f"i{index}", datatype="FP32", shape=[1])
        request.raw_input_contents.append(bytes(4))
    return request


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (with_outputs(100_000), "more than 65536 bytes beside its tensors' values"),
        (with_outputs(4_000), "4000 outputs, this model has 2"),
        (with_inputs(120_000), "more than 65536 bytes beside its tensors' values"),
        (with_inputs(2_000), "2001 inputs, this model has 1"),
        (b"\x32\x00" * 2_000_000, "more than 65536 bytes beside its tensors' values"),
    ],
    ids=["100000 outputs", "4000 outputs", "120000 inputs", "2000 inputs", "2000000 outputs"],
)
def test_many_fields_are_refused_and_other_clients_are_served(server, channel, request_, text):
    hostile = [ask(channel, "ModelInfer", request_) for _ in range(3)]
    with grpc.insecure_channel(server.address) as other:
        answer = messages.ModelInferResponse.FromString(ask(other, "ModelInfer", infer_request()).result())
    np.testing.assert_array_equal(np.frombuffer(answer.raw_output_contents[1], np.float32), 2 * X.ravel())
    for call in hostile:
        assert call.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert text in call.details()


def test_many_typed_integers_are_converted_beside_the_loop(integer_model, serve, monkeypatch):
    """Small requests are read by the loop itself."""
    threads = []

    def read_call(*arguments):
        threads.append(threading.get_ident())
        return real(*arguments)

    real = servicer.read_call
    monkeypatch.setattr(servicer, "read_call", read_call)
    array = np.arange(80_000).reshape(-1, 4)
    large = messages.ModelInferRequest(model_name="integer")
    large.inputs.add(name="x", datatype="INT64", shape=array.shape).contents.int64_contents.extend(array.ravel())
    with serve([integer_model]) as server, grpc.insecure_channel(server.address) as channel:
        answers = [
            ask(channel, "ModelInfer", each).result() for each in (infer_request(array[:1], "INT64", "integer"), large)
        ]
    answer = messages.ModelInferResponse.FromString(answers[1])
    np.testing.assert_array_equal(np.frombuffer(answer.raw_output_contents[1], np.int64), 2 * array.ravel())
    assert len(set(threads)) == 2


@pytest.mark.parametrize(
    ("method", "field"),
    [
        *((f"Model{each}", "name") for each in ("Ready", "Metadata", "Config", "Statistics")),
        *((f"Repository{each}", "repository_name") for each in ("Index", "ModelLoad", "ModelUnload")),
        ("TraceSetting", "model_name"),
    ],
)
def test_names_as_long_as_tensors_are_not_parsed(channel, method, field):
    call = ask(channel, method, getattr(messages, f"{method}Request")(**{field: HUGE}))
    assert call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "takes at most 65536; this method's requests hold names only" in call.details()


@pytest.mark.parametrize("method", ["Check", "Watch"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (health_pb2.HealthCheckRequest(service=HUGE).SerializeToString(), "RESOURCE_EXHAUSTED"),
        (b"\x78\x00" * 1_000_000, "RESOURCE_EXHAUSTED"),
        (b"\xff\xff", "INVALID_ARGUMENT"),
    ],
    ids=["a long name", "many fields", "no message"],
)
def test_health_requests_are_bounded(channel, caplog, method, body, status):
    """The requests add nothing to the log."""
    path = f"/grpc.health.v1.Health/{method}"
    with pytest.raises(grpc.RpcError) as caught:
        list(channel.unary_stream(path)(body, timeout=PATIENCE_S))
    assert caught.value.code().name == status
    assert not caplog.records


def test_health_and_reflection_answer_as_before(channel):
    health = health_pb2_grpc.HealthStub(channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service="net"), timeout=PATIENCE_S)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")] * 2
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    answers = list(reflection.ServerReflectionInfo(iter(asked), timeout=PATIENCE_S))
    names = [{each.name for each in answer.list_services_response.service} for answer in answers]
    assert len(names) == 2
    assert messages.SERVICE_NAME in names[0] & names[1]


def test_reflection_requests_are_bounded(channel, caplog):
    """The first is answered, the one that is too long ends the stream."""
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [reflection_pb2.ServerReflectionRequest(file_by_filename=name) for name in ("x", HUGE)]
    answers = reflection.ServerReflectionInfo(iter(asked), timeout=PATIENCE_S)
    assert next(answers).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not caplog.records
