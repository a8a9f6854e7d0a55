"""Replica: the answers of a model behind an ingress, without a cluster."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from nested_sparse.errors import ServingError, SettingsError, StuckError, UnsupportedError
from nested_sparse.proto import messages
from nested_sparse.runtime.session import Session
from nested_sparse.serving.cluster.forwarded import Answer, Arrival, Forwarded
from nested_sparse.serving.cluster.ingress import Ingress
from nested_sparse.serving.cluster.replica import (
    DEMAND,
    REPLICA_KEY,
    Replica,
    _stateless,
    replica_settings,
)
from nested_sparse.serving.health import HealthServicer
from nested_sparse.serving.model_health import ModelHealth
from support import EXAMPLE

TABLES = {
    "models": {"files": [str(EXAMPLE)], "profile_cache": "off", "slo_ms": 60_000.0, "policy": "slackfit"},
    "security": {"insecure": True},
}
IMAGE = np.random.default_rng(0).standard_normal((1, 1, 28, 28)).astype(np.float32)


@pytest.fixture(scope="module")
def replica() -> Iterator[tuple[Replica, asyncio.AbstractEventLoop]]:
    """One replica of the example, and the loop that it lives in."""
    loop = asyncio.new_event_loop()
    replica = Replica(replica_settings(TABLES, 1), "a")
    try:
        yield replica, loop
        loop.run_until_complete(replica.close())
    finally:
        loop.close()


def request(name: str = "fashion-mnist", **parameters: Any) -> bytes:
    message = messages.ModelInferRequest(model_name=name)
    message.inputs.add(name="input", datatype="FP32", shape=list(IMAGE.shape))
    message.raw_input_contents.append(IMAGE.tobytes())
    for key, value in parameters.items():
        message.parameters[key].CopyFrom(messages.InferParameter(**{f"{type(value).__name__}64_param": value}))
    return message.SerializeToString()


def call(given: tuple[Replica, asyncio.AbstractEventLoop], method: str, data: bytes = b"", **fields: Any) -> Answer:
    replica, loop = given
    fields = {"arrival": Arrival.now(), "peer": "ipv4:192.0.2.1:50", **fields}
    return loop.run_until_complete(replica.call(Forwarded(method, data, **fields)))


@pytest.mark.parametrize("level", [0, 2])
def test_an_answer_is_that_of_the_session_at_its_level(replica: Any, level: int) -> None:
    answer = call(replica, "ModelInfer", request(level=level))
    response = messages.ModelInferResponse.FromString(answer.data)
    expected = Session(EXAMPLE, threads=1).run({"input": IMAGE}, level=level)["output"]
    assert answer.ending is None
    assert (REPLICA_KEY, "a") in answer.trailers
    assert response.parameters["level"].int64_param == level
    assert {"density", "accuracy", "queue_us", "compute_us"} <= set(response.parameters)
    np.testing.assert_array_equal(np.frombuffer(response.raw_output_contents[0], np.float32), expected.ravel())


@pytest.mark.parametrize(
    ("data", "fields", "status"),
    [
        (request("nix"), {}, grpc.StatusCode.NOT_FOUND),
        (request(level=9), {}, grpc.StatusCode.INVALID_ARGUMENT),
        (b"\xff\xff", {}, grpc.StatusCode.INVALID_ARGUMENT),
        (request(), {"left_s": 0.0}, grpc.StatusCode.DEADLINE_EXCEEDED),
        # it came to another machine long ago, and its client still waits: its SLO is over
        (request(), {"arrival": Arrival("elsewhere", 0.0, 1.0), "left_s": 1e12}, grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
def test_errors_are_endings(replica: Any, data: bytes, fields: Any, status: grpc.StatusCode) -> None:
    assert call(replica, "ModelInfer", data, **fields).ending.status is status  # type: ignore[union-attr]


def test_the_load_of_the_replica_goes_with_the_answer_where_it_is_asked_for(replica: Any) -> None:
    asked = call(replica, "ModelInfer", request(), metadata=(("endpoint-load-metrics-format", "text"),))
    assert "endpoint-load-metrics" in dict(asked.trailers)
    assert "endpoint-load-metrics" not in dict(call(replica, "ModelInfer", request()).trailers)


def test_requests_are_counted_for_the_autoscaler(replica: Any) -> None:
    replica[0].record_autoscaling_stats()
    call(replica, "ModelInfer", request())
    assert replica[0].record_autoscaling_stats()[DEMAND] > 0
    assert replica[0].record_autoscaling_stats()[DEMAND] == 0


def test_administration_is_refused(replica: Any) -> None:
    """The ingress does not even send it on."""
    assert call(replica, "RepositoryModelUnload").ending.status is grpc.StatusCode.PERMISSION_DENIED  # type: ignore[union-attr]


def test_a_stuck_replica_is_not_healthy(replica: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    it = replica[0]
    it.check_health()
    (model,) = it._dataplane.every()
    stats = model.engine.stats()
    stuck = type(stats)(0, 1.0, stuck=1)
    monkeypatch.setattr(model.engine, "stats", lambda: stuck)
    with pytest.raises(StuckError, match="fashion-mnist"):
        it.check_health()
    monkeypatch.undo()
    ModelHealth(HealthServicer(), it._dataplane).update()


def test_calls_take_a_token_where_there_is_a_file_of_them(tmp_path: Path) -> None:
    """Those of clients. The ingress has none, and its health is that of the replica."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"camera inference {'x' * 40}\n")
    tables = {**TABLES, "security": {"insecure": True, "token_file": str(tokens)}}

    async def statuses() -> tuple[Any, Any, dict[str, int]]:
        replica = Replica(replica_settings(tables, 1), "a")
        ingress = Ingress(replica.call)
        try:
            await ingress.look()
            without = await replica.call(Forwarded("RepositoryIndex", b"", Arrival.now()))
            token = (("authorization", f"Bearer {'x' * 40}"),)
            answer = await replica.call(Forwarded("ModelInfer", request(), Arrival.now(), metadata=token))
            return without.ending, answer.ending, ingress.health._statuses
        finally:
            await replica.close()

    without, ending, health = asyncio.run(statuses())
    assert without.status is grpc.StatusCode.UNAUTHENTICATED
    assert ending is None
    assert {name: health[name] for name in ("", "fashion-mnist")} == {"": 1, "fashion-mnist": 1}


@pytest.mark.parametrize(
    ("table", "values", "said"),
    [
        ("address", {"port": 9000}, "grpc_options"),
        ("security", {"tls_cert": "a.pem", "tls_key": "a.key"}, "proxy"),
        ("security", {"allow_shared_memory": True}, "shares no memory"),
        ("models", {"model_dir": "/srv/models"}, "name files"),
        ("fetching", {"urls": ["https://127.0.0.1/net.safetensors"]}, "name files"),
        ("watching", {"otlp_endpoint": "http://127.0.0.1:4317"}, "spans"),
    ],
)
def test_a_setting_that_a_cluster_does_not_have_is_refused(table: str, values: Any, said: str) -> None:
    tables = {**TABLES, table: {**TABLES.get(table, {}), **values}}
    with pytest.raises(ServingError, match=said):
        Replica(replica_settings(tables, 1))


def test_without_tls_the_user_says_that_the_network_is_safe() -> None:
    """Ray's ingress listens on every address."""
    with pytest.raises(ServingError, match="insecure"):
        Replica(replica_settings({"models": TABLES["models"]}, 1))


def test_tables_are_checked_as_those_of_a_file() -> None:
    with pytest.raises(SettingsError, match=r"\[models\].*slo_m\b"):
        replica_settings({"models": {"files": [str(EXAMPLE)], "slo_m": 1.0}}, 1)
    with pytest.raises(ServingError, match="expected tables"):
        replica_settings({"models": 3}, 1)  # type: ignore[dict-item]


def test_the_replicas_cores_are_the_models_threads() -> None:
    assert replica_settings(TABLES, 3).models.threads == 3
    assert replica_settings({**TABLES, "models": {**TABLES["models"], "threads": 2}}, 3).models.threads == 2


def test_a_model_with_states_is_refused(make_model: Any) -> None:
    """Calls of one sequence may reach two replicas, and one of them would go on from an old state."""
    with pytest.raises(UnsupportedError, match="nested-sparse serve"):
        _stateless(make_model(state={"double": "x"}))
    assert _stateless(model := make_model()) is model


def test_without_ray_the_module_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "nested_sparse.serving.cluster.ray_serve", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'nested-sparse\[ray\]'"):
        importlib.import_module("nested_sparse.serving.cluster.ray_serve")
