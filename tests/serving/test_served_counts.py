"""Served counts: the statistics and metrics of a real server after its clients' requests."""

from __future__ import annotations

import urllib.request

import grpc
import numpy as np
import pytest
from clients import failure, tensor, triton

from nested_sparse.errors import OverloadedError
from nested_sparse.proto import messages
from nested_sparse.serving.server import LEAST_MESSAGE_BYTES, ServerConfig


def test_model_statistics_count_requests_and_times(client, model):
    """Counts and times of ModelStatistics."""
    client.infer("net", [tensor()])
    model.engine.error = OverloadedError("full", 1)
    failure(client)
    (stats,) = client.get_inference_statistics("net").model_stats
    assert (stats.inference_count, stats.execution_count) == (2, 1)
    assert stats.inference_stats.success.count == stats.inference_stats.fail.count == 1
    times = stats.inference_stats
    assert times.compute_input.ns > 0
    assert times.compute_output.ns > 0
    assert times.queue.ns == max(0, 1_500_000 - times.compute_input.ns)
    assert (times.cache_hit.count, times.cache_miss.count) == (0, 0)
    (batch,) = stats.batch_stats
    assert (batch.batch_size, batch.compute_infer.count, batch.compute_infer.ns) == (2, 1, 2_500_000)
    assert (batch.compute_input.ns, batch.compute_output.ns) == (times.compute_input.ns, times.compute_output.ns)
    assert stats.inference_stats.compute_infer.ns == 2_500_000
    assert stats.inference_stats.success.ns > 0
    assert stats.last_inference > 0
    assert len(client.get_inference_statistics().model_stats) == 1


def test_metrics_have_the_names_that_dashboards_use(model, serve):
    """Requests, sheds, latencies and gauges, under the names that dashboards use."""
    with serve([model], ServerConfig(port=0, metrics_port=0)) as server:
        with triton.InferenceServerClient(server.address) as client:
            client.infer("net", [tensor()], parameters={"level": 1})
            failure(client, parameters={"level": -3})
            model.engine.error = OverloadedError("full", 1)
            failure(client)
        text = urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=120).read().decode()
    for line in (
        'nested_sparse_requests_total{level="1",model="net",outcome="ok"} 1.0',
        'nested_sparse_requests_total{level="",model="net",outcome="invalid"} 1.0',
        'nested_sparse_requests_total{level="",model="net",outcome="shed"} 1.0',
        'nested_sparse_shed_total{model="net"} 1.0',
        'nested_sparse_queue_seconds_count{level="1",model="net"} 1.0',
        'nested_sparse_compute_seconds_sum{level="1",model="net"} 0.0025',
        'nested_sparse_total_seconds_count{level="1",model="net"} 1.0',
        'nested_sparse_current_level{model="net"} 1.0',
        'nested_sparse_slowdown{model="net"} 1.25',
        'nested_sparse_queue_length{model="net"} 0.0',
        'nested_sparse_running_requests{model="net"} 0.0',
        'nested_sparse_model_bytes{level="2",model="net"} 10000.0',
    ):
        assert line in text.splitlines()


def test_requests_that_reach_no_model_are_counted(model, serve):
    """They have no model's name: a label that clients choose would grow without bound."""
    with serve([model], ServerConfig(port=0, metrics_port=0)) as server:
        with triton.InferenceServerClient(server.address) as client:
            for name in ("other", "another"):
                failure(client, model_name=name)
            failure(client, model_version="7")
            failure(client, inputs=[tensor(np.zeros((LEAST_MESSAGE_BYTES // 16 + 1, 4), np.float32))])
            client.infer("net", [tensor()])
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary(f"/{messages.SERVICE_NAME}/ModelInfer")(b"\xff")
        text = urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=20).read().decode()
    counted = {line for line in text.splitlines() if line.startswith("nested_sparse_requests_total")}
    assert counted == {
        'nested_sparse_requests_total{level="",model="",outcome="not_found"} 3.0',
        'nested_sparse_requests_total{level="",model="",outcome="invalid"} 2.0',
        'nested_sparse_requests_total{level="2",model="net",outcome="ok"} 1.0',
    }
