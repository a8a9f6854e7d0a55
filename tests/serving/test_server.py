"""Server: a real one, asked by unmodified clients: tritonclient, health, reflection, plain gRPC."""

from __future__ import annotations

import concurrent.futures

import grpc
import numpy as np
import pytest
from clients import X, failure, infer_stub, tensor, triton, typed_request, wait_for
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from nested_sparse.errors import DeadlineError, OverloadedError, ServingError, UnavailableError
from nested_sparse.proto import messages
from nested_sparse.serving.fault import DETAILS_KEY, NO_RETRY, PUSHBACK_KEY
from nested_sparse.serving.security import SecurityConfig
from nested_sparse.serving.server import LEAST_MESSAGE_BYTES, ServerConfig, receive_limit

InferenceServerException = pytest.importorskip(
    "tritonclient.utils", reason="tritonclient is not installed"
).InferenceServerException

SLO_RULE = "slo_ms: expected a finite number of milliseconds above 0, got "


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.address) as it:
        yield it


def test_health_and_metadata(client):
    """The answers that clients need before they start."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("net")
    assert client.is_model_ready("net", "1")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata().name == "nested-sparse"
    metadata = client.get_model_metadata("net")
    assert (metadata.name, list(metadata.versions)) == ("net", ["1"])
    (x,) = metadata.inputs
    assert (x.name, x.datatype, list(x.shape)) == ("x", "FP32", [-1, 4])
    assert [output.name for output in metadata.outputs] == ["sum", "double"]
    config = client.get_model_config("net").config
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [-1, 4]
    assert config.input[0].data_type == messages.TYPE_FP32
    (entry,) = client.get_model_repository_index().models
    assert (entry.name, entry.state) == ("net", "READY")


def test_infer_with_raw_contents(client):
    """tritonclient's own way, all outputs, id echoed, parameters filled."""
    result = client.infer("net", [tensor()], request_id="seven", parameters={"level": 1})
    np.testing.assert_array_equal(result.as_numpy("sum"), X.sum(axis=1, keepdims=True))
    np.testing.assert_array_equal(result.as_numpy("double"), 2 * X)
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("seven", "net", "1")
    parameters = response.parameters
    assert parameters["level"].int64_param == 1
    assert parameters["density"].double_param == 0.5
    assert parameters["accuracy"].double_param == 0.95
    assert parameters["queue_us"].int64_param == 1500
    assert parameters["compute_us"].int64_param == 2500


def test_infer_one_output(client):
    """The answer has only the requested output."""
    result = client.infer("net", [tensor()], outputs=[triton.InferRequestedOutput("double")])
    assert [output.name for output in result.get_response().outputs] == ["double"]
    np.testing.assert_array_equal(result.as_numpy("double"), 2 * X)


def test_infer_typed_contents(channel):
    """The way of grpcurl and ghz."""
    response = infer_stub(channel)(typed_request())
    assert response.id == "seven"
    np.testing.assert_array_equal(np.frombuffer(response.raw_output_contents[1], np.float32).reshape(2, 4), 2 * X)


def test_infer_half_precision(half_model, serve):
    """FP16 values are sent raw."""
    with serve([half_model]) as server, triton.InferenceServerClient(server.address) as client:
        result = client.infer("half", [tensor(X.astype(np.float16), datatype="FP16")])
        assert result.as_numpy("double").dtype == np.float16
        np.testing.assert_array_equal(result.as_numpy("double"), 2 * X.astype(np.float16))


def test_parameters_reach_the_scheduler(client, model):
    """slo_ms, min_accuracy, tritonclient's timeout and the gRPC deadline."""
    client.infer("net", [tensor()], parameters={"slo_ms": 250, "min_accuracy": 0.5})
    client.infer("net", [tensor()], timeout=3000, priority=2)
    client.infer("net", [tensor()], client_timeout=60)
    client.infer("net", [tensor()])
    first, second, third, fourth = model.engine.requests
    assert (first.slo_ms, first.min_accuracy, first.level) == (250, 0.5, None)
    assert (second.slo_ms, second.timeout_ms, second.priority) == (None, 3, 2)
    assert third.slo_ms is None
    assert 20_000 < third.timeout_ms < 61_000  # what is left of it; gRPC rounds
    assert (fourth.slo_ms, fourth.timeout_ms, fourth.priority) == (None, None, None)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ({"model_name": "other"}, "NOT_FOUND", "no model 'other'"),
        ({"model_version": "7"}, "NOT_FOUND", "no version '7'"),
        ({"inputs": [tensor(name="z")]}, "INVALID_ARGUMENT", "'z'"),
        ({"inputs": []}, "INVALID_ARGUMENT", "no inputs"),
        ({"inputs": [tensor(X[:, :3].copy())]}, "INVALID_ARGUMENT", "[2, 3]"),
        ({"inputs": [tensor(X.ravel())]}, "INVALID_ARGUMENT", "[8]"),
        ({"inputs": [tensor(X.astype(np.float64), datatype="FP64")]}, "INVALID_ARGUMENT", "float32"),
        ({"inputs": [tensor(X[:1], shape=[2, 4])]}, "INVALID_ARGUMENT", "takes 32 bytes, got 16"),
        ({"inputs": [tensor(X, shape=[1, 4])]}, "INVALID_ARGUMENT", "takes 16 bytes, got 32"),
        ({"outputs": [triton.InferRequestedOutput("z")]}, "INVALID_ARGUMENT", "no output 'z'"),
        ({"parameters": {"slo": 5, "mine": "x"}}, "INVALID_ARGUMENT", "unknown parameters ['mine', 'slo']"),
        ({"sequence_id": 7}, "INVALID_ARGUMENT", "'sequence_"),
        (
            {"priority": 11},
            "INVALID_ARGUMENT",
            "priority: expected a whole number of at least 1 and at most 10",
        ),
        ({"parameters": {"slo_ms": "soon"}}, "INVALID_ARGUMENT", "'slo_ms' has the wrong type"),
        ({"parameters": {"slo_ms": 0}}, "INVALID_ARGUMENT", SLO_RULE + "0"),
        ({"parameters": {"slo_ms": -5}}, "INVALID_ARGUMENT", SLO_RULE + "-5"),
        ({"parameters": {"slo_ms": -0.5}}, "INVALID_ARGUMENT", SLO_RULE + "-0.5"),
        ({"parameters": {"slo_ms": float("nan")}}, "INVALID_ARGUMENT", SLO_RULE + "nan"),
        ({"parameters": {"slo_ms": float("inf")}}, "INVALID_ARGUMENT", SLO_RULE + "inf"),
        ({"parameters": {"slo_ms": 0}, "timeout": 3000}, "INVALID_ARGUMENT", SLO_RULE + "0"),
        ({"parameters": {"level": -3}}, "INVALID_ARGUMENT", "level -3 is out of range"),
    ],
)
def test_wrong_requests_are_refused_with_the_cause(client, arguments, status, message):
    """Each names what is wrong; the server goes on."""
    got_status, got_message = failure(client, **arguments)
    assert got_status == status
    assert message in got_message
    client.infer("net", [tensor()])


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (
            OverloadedError("shed: level 0 needs 9 ms", 12.2),
            "RESOURCE_EXHAUSTED",
            "shed: level 0 needs 9 ms; retry after 13 ms",
        ),
        (OverloadedError("shed: too short", None), "RESOURCE_EXHAUSTED", "shed: too short"),
        (DeadlineError("expired"), "DEADLINE_EXCEEDED", "expired"),
        (UnavailableError("closing"), "UNAVAILABLE", "closing"),
    ],
)
def test_errors_of_the_scheduler_become_statuses(client, model, error, status, message):
    """Each error of the scheduler has the status of one table."""
    model.engine.error = error
    assert failure(client) == (status, message)


def test_unforeseen_error_stays_inside(client, model, caplog):
    """The client gets an incident number, the log the details."""
    model.engine.error = RuntimeError("secret path")
    status, message = failure(client)
    assert status == "INTERNAL"
    assert "secret" not in message
    incident = message.rstrip(".").split()[-1]
    assert incident in caplog.text
    assert "secret path" in caplog.text


@pytest.mark.parametrize(("retry_after_ms", "pushback", "details"), [(12.2, "13", True), (None, NO_RETRY, False)])
def test_shedding_carries_a_retry_hint(channel, model, retry_after_ms, pushback, details):
    """gRPC's own retry policy reads the pushback trailer. Where a retry cannot help, it says so."""
    model.engine.error = OverloadedError("full", retry_after_ms)
    with pytest.raises(grpc.RpcError) as caught:
        infer_stub(channel)(typed_request())
    trailers = dict(caught.value.trailing_metadata())
    assert (trailers[PUSHBACK_KEY], DETAILS_KEY in trailers) == (pushback, details)


def test_what_is_off_is_unimplemented(client):
    """Shared memory has to be allowed."""
    with pytest.raises(Exception, match="UNIMPLEMENTED"):
        client.get_system_shared_memory_status()


def test_client_deadline_ends_the_wait(client, model):
    """A client that stops waiting gets DEADLINE_EXCEEDED, and its request leaves the queue."""
    model.engine.held = True
    for seconds in (0.2, 1.0, 5.0, 25.0):  # on a slow machine the first may be over before the server has read it
        assert failure(client, client_timeout=seconds)[0] == "DEADLINE_EXCEEDED"
        if model.engine.pending:
            break
    assert wait_for(lambda: model.engine.pending[0].cancelled())


def test_client_cancel_reaches_the_scheduler(channel, model):
    """A cancelled call is not computed."""
    model.engine.held = True
    call = infer_stub(channel).future(typed_request())
    assert wait_for(lambda: model.engine.pending)
    call.cancel()
    assert wait_for(lambda: model.engine.pending[0].cancelled())


def test_oversized_request_is_told_from_shedding(client):
    """gRPC's own refusal has the same status but another text."""
    big = np.zeros((LEAST_MESSAGE_BYTES // 16 + 1, 4), np.float32)
    status, message = failure(client, inputs=[tensor(big)])
    assert status == "RESOURCE_EXHAUSTED"
    assert "shed" not in message
    assert f"at most {LEAST_MESSAGE_BYTES}" in message
    assert "--max-batch" in message


def test_receive_limit_follows_the_models(model):
    """A batch of the largest model fits, and gRPC's default at least."""
    assert receive_limit([model], 64) == LEAST_MESSAGE_BYTES
    assert receive_limit([model], 1_000_000) >= 16_000_000
    assert receive_limit([], 1) == LEAST_MESSAGE_BYTES
    assert receive_limit([model], 10**12) < 2**31


def test_health_check_and_watch(channel):
    """grpc.health.v1 knows the server, the service and the model."""
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", messages.SERVICE_NAME, "net"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="other"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_watch_sees_the_drain(model, serve):
    """A watcher hears NOT_SERVING before the server goes."""
    with serve([model]) as server:
        channel = grpc.insecure_channel(server.address)
        updates = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="net"))
        assert next(updates).status == health_pb2.HealthCheckResponse.SERVING
    assert next(updates).status == health_pb2.HealthCheckResponse.NOT_SERVING
    channel.close()


def test_reflection_lists_and_describes(channel):
    """The answers that grpcurl needs."""
    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    assert {messages.SERVICE_NAME, "grpc.health.v1.Health"} <= services
    file = database.FindFileContainingSymbol(messages.SERVICE_NAME)
    assert {method.name for method in file.service[0].method} >= {"ModelInfer", "ServerLive"}
    assert database.FindFileContainingSymbol("grpc.health.v1.Health").package == "grpc.health.v1"


def test_two_models_are_served_by_their_names(model, half_model, serve):
    """Each model is called by its own name, with its own types."""
    with serve([model, half_model]) as server, triton.InferenceServerClient(server.address) as client:
        assert {entry.name for entry in client.get_model_repository_index().models} == {"net", "half"}
        assert client.infer("net", [tensor()]).as_numpy("sum").dtype == np.float32
        assert client.infer("half", [tensor(X.astype(np.float16), datatype="FP16")]).as_numpy("sum").dtype == np.float16


def test_drain_answers_the_running_and_refuses_the_new(model, serve):
    """The request that runs when the drain begins gets its answer; one that comes then gets UNAVAILABLE."""
    model.engine.held = True
    with serve([model]) as server:
        channel = grpc.insecure_channel(server.address)
        running = infer_stub(channel).future(typed_request())
        assert wait_for(lambda: model.engine.pending)

        def answer_after_a_refusal():
            watch = health_pb2_grpc.HealthStub(channel)
            assert wait_for(
                lambda: (
                    watch.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.NOT_SERVING
                )
            )
            refused = infer_stub(channel).future(typed_request()).code()
            model.engine.pending[0].set_result(model.engine.response({"x": X}, 0))
            return refused

        helper = concurrent.futures.ThreadPoolExecutor(1)
        refused = helper.submit(answer_after_a_refusal)
    assert refused.result(30) == grpc.StatusCode.UNAVAILABLE
    np.testing.assert_array_equal(np.frombuffer(running.result(30).raw_output_contents[1], np.float32), 2 * X.ravel())
    channel.close()
    helper.shutdown()
    assert model.engine.closed_with is not None


def test_port_in_use(model, server, serve):
    """A second server on the port is refused in one line, not half of the requests."""
    port = int(server.address.rsplit(":", 1)[1])
    with (
        pytest.raises(ServingError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"),
        serve([model], ServerConfig(port=port)),
    ):
        pass


def test_an_unusable_host_is_refused_with_the_systems_reason(model, serve):
    """The system's reason is in the message."""
    with (
        pytest.raises(ServingError, match=r"cannot listen on 203\.0\.113\.1:0"),
        serve([model], ServerConfig(host="203.0.113.1", port=0, security=SecurityConfig(insecure=True))),
    ):
        pass


@pytest.mark.parametrize("value", [-1, 65536, 1.5, "8001", True])
@pytest.mark.parametrize("name", ["port", "metrics_port"])
def test_ports_are_checked(name, value):
    """The error comes before the server starts."""
    with pytest.raises(ServingError, match=f"^{name}: expected a whole number of at least 0 and at most 65535, got "):
        ServerConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("request_samples", 0), ("grace_s", -1.0), ("grace_s", float("inf")), ("grace_s", float("nan"))],
)
def test_configuration_is_checked(name, value):
    """The other fields are checked as the ports are."""
    with pytest.raises(ServingError, match=f"^{name}: expected a "):
        ServerConfig(**{name: value})
