"""Spans: a span of each request at a collector, in its client's own trace."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from nested_sparse.errors import ServingError
from nested_sparse.serving.server import ServerConfig

pytest.importorskip("opentelemetry.sdk", reason="the extra [otel] is not installed")
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RECORDED, LEFT_OUT = "01", "00"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]
    """A collector that keeps what it gets."""

    def __init__(self) -> None:
        self.resources: list[dict[str, Any]] = []
        self._spans: list[Any] = []
        self._changed = threading.Condition()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._changed:
            for each in request.resource_spans:
                self.resources.append(values(each.resource.attributes))
                self._spans += [span for scope in each.scope_spans for span in scope.spans]
            self._changed.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self, count: int) -> dict[str, Any]:
        """Its spans by name, when there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._spans) >= count, 60)
            assert len(self._spans) == count
            return {span.name: span for span in self._spans}


def values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in attributes}


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    server, kept = grpc.server(ThreadPoolExecutor()), Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(kept, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield kept, f"http://127.0.0.1:{port}"
    server.stop(0).wait()


def ask(address: str, flags: str = RECORDED, parent: str | None = None, **options: Any) -> None:
    """A request in a trace of its client. parent: the header that states it."""
    with triton.InferenceServerClient(address) as client:
        tensor = triton.InferInput("x", [2, 4], "FP32")
        tensor.set_data_from_numpy(np.ones((2, 4), np.float32))
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-{flags}" if parent is None else parent}
        client.infer(options.pop("name", "net"), [tensor], headers=headers, **options)


def test_a_request_is_a_span_in_its_clients_trace(model: Any, serve: Any, collector: tuple[Collector, str]) -> None:
    """With its wait and its run below it; the last spans leave when the server stops."""
    kept, endpoint = collector
    before_ns = time.time_ns()
    with serve([model], ServerConfig(port=0, grace_s=5, otlp_endpoint=endpoint)) as server:
        ask(server.address)
    spans = kept.spans(3)
    request, queue, compute = spans["ModelInfer"], spans["queue"], spans["compute"]
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert request.parent_span_id.hex() == PARENT
    assert queue.parent_span_id == compute.parent_span_id == request.span_id
    assert before_ns <= request.start_time_unix_nano == queue.start_time_unix_nano
    assert queue.end_time_unix_nano == compute.start_time_unix_nano
    facts = values(request.attributes)
    assert facts["rpc.service"] == "inference.GRPCInferenceService"
    assert (facts["model.name"], facts["model.version"], facts["request.samples"]) == ("net", "1", 2)
    assert {"model.level", "model.density", "request.limit_ms", "run.samples"} < facts.keys()
    assert kept.resources[0]["service.name"] == "nested-sparse"


def test_a_request_over_rest_is_such_a_span_too(model: Any, serve: Any, collector: tuple[Collector, str]) -> None:
    kept, endpoint = collector
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-{RECORDED}"}
    with serve([model], ServerConfig(port=0, http_port=0, grace_s=5, otlp_endpoint=endpoint)) as server:
        url, body = f"http://{server.http_address}/v2/models/net/infer", json.dumps({"inputs": [tensor]}).encode()
        urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60).close()
    request = kept.spans(3)["ModelInfer"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)


def test_failures_are_spans_that_say_their_outcome(model: Any, serve: Any, collector: tuple[Collector, str]) -> None:
    """Also of a request that reaches no model."""
    kept, endpoint = collector
    with serve([model], ServerConfig(port=0, grace_s=5, otlp_endpoint=endpoint)) as server:
        for options in ({"name": "absent"}, {"parameters": {"level": 99}}):
            with pytest.raises(InferenceServerException):
                ask(server.address, **options)
    spans = list(kept._spans)
    assert [values(span.attributes)["outcome"] for span in spans] == ["not_found", "invalid"]
    assert {span.status.code for span in spans} == {2}
    assert {span.parent_span_id.hex() for span in spans} == {PARENT}


def test_a_trace_that_its_client_does_not_record_is_left_out(
    model: Any, serve: Any, collector: tuple[Collector, str]
) -> None:
    kept, endpoint = collector
    with serve([model], ServerConfig(port=0, grace_s=5, otlp_endpoint=endpoint)) as server:
        ask(server.address, LEFT_OUT)
    assert kept._spans == []


@pytest.mark.parametrize("parent", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", "x" * 5000])
def test_a_trace_that_is_none_does_no_harm(
    model: Any, serve: Any, collector: tuple[Collector, str], parent: str
) -> None:
    """The request has a trace of its own."""
    kept, endpoint = collector
    with serve([model], ServerConfig(port=0, grace_s=5, otlp_endpoint=endpoint)) as server:
        ask(server.address, parent=parent)
    assert not kept.spans(3)["ModelInfer"].parent_span_id


def test_without_a_collector_requests_are_answered(model: Any, serve: Any) -> None:
    """And the server ends."""
    with serve([model], ServerConfig(port=0, grace_s=5, otlp_endpoint="http://127.0.0.1:1")) as server:
        for _ in range(20):
            ask(server.address)


@pytest.mark.parametrize("url", ["", "127.0.0.1:4317", "ftp://a"])
def test_an_endpoint_that_is_none(url: str) -> None:
    with pytest.raises(ServingError, match="otlp_endpoint: expected a URL as"):
        ServerConfig(otlp_endpoint=url)


def test_the_extra_is_named_where_its_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nested_sparse.serving.server.find_spec", lambda name: None)
    with pytest.raises(ServingError, match=r"pip install 'nested-sparse\[otel\]'"):
        ServerConfig(otlp_endpoint="http://127.0.0.1:4317")
