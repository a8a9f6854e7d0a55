"""Front: a real server whose loop is the bottleneck, under an open loop of requests."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from dataclasses import replace
from itertools import chain, repeat
from typing import Any

import grpc
import pytest
from outcomes import outcomes

from nested_sparse.proto import messages
from nested_sparse.runtime.scheduling.request import Request, Response, time_limit_ms
from nested_sparse.serving.bench.serving.raw_client import call_together
from nested_sparse.serving.connections.front import waited_s
from nested_sparse.serving.dataplane import Dataplane
from nested_sparse.serving.http.local_call import LocalContext
from nested_sparse.serving.metrics import Metrics
from nested_sparse.serving.protocol.convert import parse_infer_request
from nested_sparse.serving.security import SecurityConfig
from nested_sparse.serving.served_model import ServedModel
from nested_sparse.serving.server import ServerConfig
from nested_sparse.serving.servicer import Servicer

WORK_S, SLO_MS = 0.004, 500.0


class BusyEngine:
    """Keeps the event loop for WORK_S with each request, then answers at once."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.longest_wait_s = 0.0

    def run_or_queue(self, request: Request) -> Future[Response]:
        assert request.received_s is not None
        self.longest_wait_s = max(self.longest_wait_s, time.monotonic() - request.received_s)
        time.sleep(WORK_S)
        return self._engine.run_or_queue(request)

    def close(self, grace_s: float) -> None:
        self._engine.close(grace_s)

    def replied(self, response: Response) -> None:
        self._engine.replied(response)

    def stats(self) -> Any:
        return self._engine.stats()


def busy(model: ServedModel) -> ServedModel:
    model.engine.default_slo_ms = SLO_MS  # type: ignore[attr-defined]
    return replace(model, engine=BusyEngine(model.engine), default_slo_ms=SLO_MS)  # type: ignore[arg-type]


def infer_request() -> messages.ModelInferRequest:
    request = messages.ModelInferRequest(model_name="net", raw_input_contents=[bytes(16)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    return request


def test_an_overloaded_front_answers_in_time_or_refuses_with_a_hint(model: ServedModel, serve: Any) -> None:
    """At 1.6 times what the loop can do at the very best: all is accounted for, and alike on both sides."""
    with serve([busy(model)], ServerConfig(port=0)) as server:
        calls = call_together(server.address, "net", 2.5, rate_per_s=1.6 / WORK_S)
        answered_ms = [call.latency_ms for call in calls if call.status == "OK"]
        refused = [call.hinted for call in calls if call.status == "RESOURCE_EXHAUSTED"]
        assert len(answered_ms) + len(refused) == len(calls)
        assert all(refused)
        assert len(refused) > 0.1 * len(calls)
        assert len(answered_ms) > 10
        said = outcomes(server)
        assert said.get("ok", 0) + said.get("late", 0) == len(answered_ms)
        assert said["shed"] == len(refused)
    in_time = sum(ms <= SLO_MS for ms in answered_ms)
    assert abs(in_time - said.get("ok", 0)) <= 0.25 * len(answered_ms)


def test_a_burst_is_taken_to_have_come_when_it_came(model: ServedModel, serve: Any) -> None:
    """Forty at once, 4 ms each, again until a probe has seen it: some have waited long when their turn comes."""
    served = busy(model)
    engine = served.engine
    assert isinstance(engine, BusyEngine)
    with serve([served], ServerConfig(port=0)) as server, grpc.insecure_channel(server.address) as channel:
        infer = channel.unary_unary(f"/{messages.SERVICE_NAME}/ModelInfer")
        data = infer_request().SerializeToString()
        for _ in range(50):
            for call in [infer.future(data, timeout=60) for _ in range(40)]:
                assert call.code() in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED)
            if engine.longest_wait_s > 5 * WORK_S:
                break
    assert engine.longest_wait_s > 5 * WORK_S


def test_deadlines_count_from_the_arrival(model: ServedModel) -> None:
    """20 ms in front and 10 to read: `slo_ms` began with them; a gRPC deadline that leaves 30 more is one of 60."""

    class Context(LocalContext):
        left_s: float | None = None

        def time_remaining(self) -> float | None:
            return self.left_s

    async def infer(left_s: float | None, **parameters: float) -> Request:
        waited_s.set(0.02)
        times_s = chain((100.0,), repeat(100.01))
        metrics = Metrics()
        metrics.watch(model)
        context, request = Context("ipv4:127.0.0.1:9", ()), infer_request()
        context.left_s = left_s
        for name, value in parameters.items():
            request.parameters[name].double_param = value
        servicer = Servicer(Dataplane([model]), metrics, clock=lambda: next(times_s))
        servicer.arrived()
        await servicer.model_infer(parse_infer_request(request.SerializeToString()), context)
        return model.engine.requests[-1]  # type: ignore[attr-defined, no-any-return]

    for left_s, parameters, limit_ms in (
        (None, {"slo_ms": 40.0}, 40.0),
        (0.03, {}, 60.0),
        (0.03, {"slo_ms": 40.0}, 40.0),
        (0.03, {"slo_ms": 80.0}, 60.0),
    ):
        request = asyncio.run(infer(left_s, **parameters))
        assert request.received_s == pytest.approx(99.98)
        assert time_limit_ms(request, SLO_MS) == pytest.approx(limit_ms)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_waits_are_seen_wherever_the_server_listens(
    model: ServedModel, serve: Any, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probes go to the server itself, and to no proxy of the environment."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with serve([busy(model)], ServerConfig(host=host, port=0, security=SecurityConfig(insecure=True))) as server:
        with grpc.insecure_channel(
            f"127.0.0.1:{server.address.rsplit(':', 1)[1]}", (("grpc.enable_http_proxy", 0),)
        ) as channel:
            infer = channel.unary_unary(f"/{messages.SERVICE_NAME}/ModelInfer")
            for _ in range(1000):
                infer(infer_request().SerializeToString(), timeout=60)
                if server._metrics.registry.get_sample_value("nested_sparse_front_wait_seconds"):
                    break
        assert server._metrics.registry.get_sample_value("nested_sparse_front_wait_seconds")
