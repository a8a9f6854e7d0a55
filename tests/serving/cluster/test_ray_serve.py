"""Ray Serve: two replicas on a cluster of this machine, by `make test-ray`: Ray is no part of `make install`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise

import grpc
import pytest
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

pytest.importorskip("ray.serve", reason="ray is not installed; `make test-ray` installs it and runs these tests")

from ray_cluster import (
    Load,
    cluster,
    deploy,
    infer_stub,
    replica_of,
    replica_processes,
    request,
    wait_until,
)

from nested_sparse.proto import messages
from support import ROOT

pytestmark = pytest.mark.slow
CALM_MS = 60_000.0
"""An SLO that a busy machine keeps."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster with two replicas of one core each, fixed in number."""
    with cluster() as address:
        deploy({"slo_ms": CALM_MS}, num_replicas=2, autoscaling_config=None)
        yield address


def test_the_serve_config_is_valid_by_rays_schema() -> None:
    """The file of docs/deploy.md, with its autoscaling policy."""
    import yaml
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import ServeDeploySchema

    content = yaml.safe_load((ROOT / "docs/deploy/ray-serve.yaml").read_text(encoding="utf-8"))
    (application,) = ServeDeploySchema.model_validate(content).applications
    scaling = AutoscalingConfig(**application.deployments[0].autoscaling_config)
    assert scaling.policy.get_policy().__name__ == "SlackPolicy"


def status_of(address: str, message: messages.ModelInferRequest, timeout: float = 60.0) -> grpc.RpcError:
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        infer_stub(channel)(message, timeout=timeout)
    return caught.value


def test_both_replicas_answer_with_the_parameters_of_the_plain_server(address: str) -> None:
    seen: set[str] = set()

    def both() -> bool:
        response, call = stub.with_call(request(level=1), timeout=60)
        assert response.parameters["level"].int64_param == 1
        assert {"density", "accuracy", "queue_us", "compute_us"} <= set(response.parameters)
        seen.add(replica_of(call))
        return len(seen) == 2

    with grpc.insecure_channel(address) as channel:
        stub = infer_stub(channel)
        assert wait_until(both)


def test_an_unmodified_client_is_served(address: str) -> None:
    triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("fashion-mnist")
        assert client.get_model_metadata("fashion-mnist").inputs[0].name == "input"
        with pytest.raises(Exception, match="ModelStatistics is about one server"):
            client.get_inference_statistics()


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (messages.ModelInferRequest(model_name="nix"), grpc.StatusCode.NOT_FOUND),
        (request(level=9), grpc.StatusCode.INVALID_ARGUMENT),
        (request(slo_ms=0.001), grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
def test_statuses_are_those_of_the_plain_server(
    address: str, message: messages.ModelInferRequest, status: grpc.StatusCode
) -> None:
    assert status_of(address, message).code() is status


def test_a_shed_request_is_told_when_to_retry(address: str) -> None:
    """Asked for in half the time of its run. On a busy machine that time may pass on the way: then it tries again."""
    whole = {"samples": 64, "level": 3}
    with grpc.insecure_channel(address) as channel:
        run_ms = infer_stub(channel)(request(**whole), timeout=60).parameters["compute_us"].int64_param / 1e3
    errors: list[grpc.RpcError] = []

    def is_shed() -> bool:
        errors.append(status_of(address, request(**whole, slo_ms=run_ms / 2)))
        return errors[-1].code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    assert wait_until(is_shed, 60), [error.details() for error in errors[-3:]]
    trailers = dict(errors[-1].trailing_metadata())
    assert "retry after" in errors[-1].details() or trailers["grpc-retry-pushback-ms"] == "-1"
    if trailers["grpc-retry-pushback-ms"] != "-1":
        details = status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details
        assert details[0].type_url.endswith("RetryInfo")


def test_health_tells_that_the_cluster_serves(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", messages.SERVICE_NAME, "fashion-mnist"):
            check = health_pb2.HealthCheckRequest(service=name)
            assert wait_until(lambda check=check: _status(stub, check) == 1, 60)


def _status(stub: object, check: health_pb2.HealthCheckRequest) -> int:
    try:
        return int(stub.Check(check, timeout=10).status)  # type: ignore[attr-defined]
    except grpc.RpcError:
        return 0


def test_no_request_is_lost_when_a_replica_is_killed_under_load(address: str) -> None:
    """Each of them is answered, those that waited in the killed replica too; a new replica takes its place.

    Prints the time until no call goes to the dead one, and until two replicas answer again.
    """
    with Load(address, request(samples=8), clients=6, timeout_s=300.0) as load:
        assert wait_until(lambda: len(load.replicas_since(0.0)) == 2 and len(load.outcomes) > 50)
        before = load.replicas_since(0.0)
        victim = replica_processes()[0]
        killed_s = time.monotonic()
        victim.kill()
        assert wait_until(lambda: len(load.replicas_since(killed_s) - before) == 1)
        new_s = next(
            end_s for end_s, replica, _, error in list(load.outcomes) if error is None and replica not in before
        )
    errors = [error for *_, error in load.outcomes if error is not None]
    gap_s = _longest_gap_s([end_s for end_s, *_ in load.outcomes if end_s >= killed_s - 1.0])
    after = sum(end_s >= killed_s for end_s, *_ in load.outcomes)
    print(
        f"\nkilled one of two replicas under load: {len(load.outcomes)} calls, {after} of them after it, {len(errors)} "
        f"lost; longest time without an answer {gap_s:.2f} s; a new replica answers after {new_s - killed_s:.1f} s"
    )
    assert errors == []


def _longest_gap_s(times_s: list[float]) -> float:
    ordered = sorted(times_s)
    return max((after - before for before, after in pairwise(ordered)), default=0.0)


def test_replicas_are_added_when_the_slack_is_gone(address: str) -> None:
    """Clients in a closed loop ask for more than one core's worth of the densest level with slack."""
    scaling = {
        "min_replicas": 1,
        "max_replicas": 2,
        "look_back_period_s": 20.0,
        "upscale_delay_s": 0.5,
        "downscale_delay_s": 0.5,
        "policy": {"policy_function": "nested_sparse.serving.cluster.slack_policy:SlackPolicy"},
    }
    deploy({"slo_ms": 200.0}, autoscaling_config=scaling)
    assert wait_until(lambda: len(replica_processes()) == 1)
    with Load(address, request(samples=32), clients=4, timeout_s=60.0):
        assert wait_until(lambda: len(replica_processes()) == 2)
    assert wait_until(lambda: len(replica_processes()) == 1)
