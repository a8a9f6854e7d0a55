"""Repository RPCs: asked by the unmodified tritonclient, of a server with fake models."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from clients import InferenceServerException, tensor, triton, wait_for
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nested_sparse.proto import messages


@pytest.fixture
def served(put, open_repository, serve):
    """A server of version 1 of net, which has a version 2, too, and of a broken model; and a client of it."""
    put("net", 1)
    put("net", 2)
    put("broken", 1, b"bad")
    with serve([], repository=open_repository("1")) as server, triton.InferenceServerClient(server.address) as client:
        yield server, client


@pytest.fixture
def client(served):
    return served[1]


def index(client: Any) -> list[tuple[str, str, str]]:
    return [(each.name, each.version, each.state) for each in client.get_model_repository_index().models]


def policy(**policies: Any) -> str:
    return json.dumps({"version_policy": policies})


def refusal(ask: Any, *arguments: Any, **keywords: Any) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        ask(*arguments, **keywords)
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def test_the_index_has_every_version_with_its_state(client):
    assert index(client) == [("broken", "1", "UNAVAILABLE"), ("net", "1", "READY"), ("net", "2", "UNAVAILABLE")]
    entries = client.get_model_repository_index().models
    assert [each.reason for each in entries] == ["model.safetensors: broken", "", "not loaded"]
    stub = client._client_stub.RepositoryIndex
    ready = stub(triton.service_pb2.RepositoryIndexRequest(ready=True)).models
    assert [(each.name, each.version) for each in ready] == [("net", "1")]
    with pytest.raises(grpc.RpcError) as caught:
        stub(triton.service_pb2.RepositoryIndexRequest(repository_name="other"))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_load_unload_and_what_clients_see_of_it(client):
    """Requests, metadata, readiness, statistics and configuration follow."""
    assert client.infer("net", [tensor()]).get_response().model_version == "1"
    client.load_model("net", config=policy(all={}))
    assert list(client.get_model_metadata("net").versions) == ["1", "2"]
    assert client.get_model_config("net").config.version_policy.WhichOneof("policy_choice") == "all"
    assert client.infer("net", [tensor()]).get_response().model_version == "2"
    assert client.infer("net", [tensor()], model_version="1").get_response().model_version == "1"
    counts = {each.version: each.inference_count for each in client.get_inference_statistics("net").model_stats}
    assert counts == {"1": 4, "2": 2}
    (second,) = client.get_inference_statistics("net", "2").model_stats
    assert (second.version, second.inference_count) == ("2", 2)
    assert len(client.get_inference_statistics().model_stats) == 2
    client.unload_model("net", unload_dependents=True)
    assert not client.is_model_ready("net")
    assert refusal(client.infer, "net", [tensor()])[0] == "NOT_FOUND"
    assert client.is_server_ready()
    assert [each for each in index(client) if each[2] == "READY"] == []
    client.load_model("net")
    assert client.is_model_ready("net", "2")


def test_health_is_that_of_each_model_and_version(served):
    """A watcher of an unloaded model hears of it, and of its return."""
    server, client = served
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        def status(name: str) -> int:
            return health.Check(health_pb2.HealthCheckRequest(service=name)).status

        updates = health.Watch(health_pb2.HealthCheckRequest(service="net"), timeout=60)
        assert next(updates).status == health_pb2.HealthCheckResponse.SERVING
        assert status("net/1") == health_pb2.HealthCheckResponse.SERVING
        client.unload_model("net")
        assert next(updates).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert status("net/1") == health_pb2.HealthCheckResponse.NOT_SERVING
        assert status("") == status(messages.SERVICE_NAME) == health_pb2.HealthCheckResponse.SERVING
        client.load_model("net", config=policy(latest={"num_versions": 1}))
        assert next(updates).status == health_pb2.HealthCheckResponse.SERVING
        assert status("net/1") == health_pb2.HealthCheckResponse.NOT_SERVING
        assert status("net/2") == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    ("name", "keywords", "status", "part"),
    [
        ("none", {}, "NOT_FOUND", "no model 'none'"),
        ("broken", {}, "FAILED_PRECONDITION", "broken/1 cannot be loaded: model.safetensors: broken"),
        ("../net", {}, "INVALID_ARGUMENT", "the name of one folder"),
        ("net", {"config": policy(specific={"versions": [9]})}, "FAILED_PRECONDITION", "the model directory has 1, 2"),
        ("net", {"config": policy(newest={})}, "INVALID_ARGUMENT", "version_policy: expected"),
        ("net", {"config": '{"max_batch_size": 3}'}, "INVALID_ARGUMENT", "'max_batch_size' cannot be set by a load"),
        ("net", {"config": '{"name": "other"}'}, "INVALID_ARGUMENT", "is not the model's, 'net'"),
        ("net", {"config": "[1]"}, "INVALID_ARGUMENT", "expected a JSON object"),
        ("net", {"config": "{" * 30_000}, "INVALID_ARGUMENT", "expected a JSON object"),
        ("net", {"config": "{}", "files": {"file:1/model.safetensors": b"x"}}, "INVALID_ARGUMENT", "not taken from a"),
    ],
)
def test_a_load_that_cannot_be_obeyed_is_refused(client, name, keywords, status, part):
    got, message = refusal(client.load_model, name, **keywords)
    assert (got, part in message) == (status, True), message
    assert ("net", "1", "READY") in index(client)


def test_unknown_parameters_are_refused(client):
    """Also where the parameter is of the wrong type."""
    for request, text in (
        ({"reload": {"bool_param": True}}, "'reload' is not known"),
        ({"config": {"bool_param": True}}, "'config': expected string, got bool"),
    ):
        message = triton.service_pb2.RepositoryModelLoadRequest(model_name="net")
        for key, value in request.items():
            message.parameters[key].MergeFrom(triton.service_pb2.ModelRepositoryParameter(**value))
        with pytest.raises(grpc.RpcError, match=text) as caught:
            client._client_stub.RepositoryModelLoad(message)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    message = triton.service_pb2.RepositoryModelUnloadRequest(model_name="net")
    message.parameters["force"].bool_param = True
    with pytest.raises(grpc.RpcError, match="'force' is not known"):
        client._client_stub.RepositoryModelUnload(message)
    assert ("net", "1", "READY") in index(client)


def test_without_a_model_directory_nothing_is_loaded(model, serve):
    with serve([model]) as server, triton.InferenceServerClient(server.address) as client:
        for ask in (client.load_model, client.unload_model):
            assert refusal(ask, "net") == (
                "FAILED_PRECONDITION",
                "This server has no model directory; start it with --model-dir DIR.",
            )
        assert index(client) == [("net", "1", "READY")]


def test_metrics_go_on_over_a_change_of_version(put, open_repository, serve):
    """The counters of a name never fall, and its gauges are those of what is loaded."""
    put("net", 1)
    with serve([], repository=open_repository()) as server, triton.InferenceServerClient(server.address) as client:
        value = server._metrics.registry.get_sample_value
        answered = ("nested_sparse_requests_total", {"model": "net", "level": "2", "outcome": "ok"})
        client.infer("net", [tensor()])
        put("net", 2)
        client.load_model("net")
        client.infer("net", [tensor()])
        assert value(*answered) == 2
        assert value("nested_sparse_queue_length", {"model": "net"}) == 0
        client.unload_model("net")
        assert wait_for(lambda: value("nested_sparse_queue_length", {"model": "net"}) is None)
        assert value(*answered) == 2
