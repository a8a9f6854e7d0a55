"""LoadReport: read as balancers read it, with message classes made from the public field numbers."""

from __future__ import annotations

import json
import time

import grpc
import pytest
from clients import infer_stub, typed_request
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from nested_sparse.serving.dataplane import Dataplane
from nested_sparse.serving.load_report import PERIOD_S, LoadReport
from nested_sparse.serving.metrics import Metrics

PUBLIC = {"cpu_utilization": 1, "mem_utilization": 2, "rps_fractional": 6, "eps": 7, "application_utilization": 9}


def orca():
    """The class of xds.data.orca.v3.OrcaLoadReport, with the fields above and named_metrics."""
    file = FileDescriptorProto(name="orca.proto", package="xds.data.orca.v3", syntax="proto3")
    message = file.message_type.add(name="OrcaLoadReport")
    for name, number in PUBLIC.items():
        message.field.add(name=name, number=number, type=FieldDescriptorProto.TYPE_DOUBLE, label=1)
    entry = message.nested_type.add(name="NamedMetricsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=FieldDescriptorProto.TYPE_STRING, label=1)
    entry.field.add(name="value", number=2, type=FieldDescriptorProto.TYPE_DOUBLE, label=1)
    kind = ".xds.data.orca.v3.OrcaLoadReport.NamedMetricsEntry"
    message.field.add(name="named_metrics", number=8, type=FieldDescriptorProto.TYPE_MESSAGE, label=3, type_name=kind)
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName("xds.data.orca.v3.OrcaLoadReport"))


def trailers(address, form=None):
    metadata = () if form is None else (("endpoint-load-metrics-format", form),)
    with grpc.insecure_channel(address) as channel:
        _, call = infer_stub(channel).with_call(typed_request(), metadata=metadata)
        return dict(call.trailing_metadata())


def test_clients_that_do_not_ask_get_none(server):
    assert not [key for key in trailers(server.address) if key.startswith("endpoint-load")]


def test_the_binary_form_is_orcas(model):
    """As gRPC's balancers parse it. gRPC's core takes this trailer for them, so a client in Python never sees it."""
    metrics = Metrics()
    metrics.watch(model)
    ((key, data),) = LoadReport(Dataplane([model]), metrics).trailers("bin")
    report = orca().FromString(data)
    assert key == "endpoint-load-metrics-bin"
    assert 0 <= report.cpu_utilization <= 1
    assert 0 < report.mem_utilization <= 1
    assert dict(report.named_metrics) == {"queue_length": 0.0, "slowdown": 1.25}


def test_a_client_that_asks_for_the_binary_form_is_answered(server):
    trailers(server.address, "bin")


def test_the_text_forms_say_the_same(server):
    text = trailers(server.address, "TEXT")["endpoint-load-metrics"]
    kind, _, fields = text.partition(" ")
    named = dict(field.split("=") for field in fields.split(", "))
    assert kind == "TEXT"
    assert named.keys() == {*PUBLIC, "named_metrics.queue_length", "named_metrics.slowdown"}
    kind, _, fields = trailers(server.address, "json")["endpoint-load-metrics"].partition(" ")
    assert kind == "JSON"
    assert json.loads(fields).keys() == {*PUBLIC, "named_metrics"}


def test_an_unknown_form_is_refused(server):
    with pytest.raises(grpc.RpcError) as caught:
        trailers(server.address, "xml")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "expected one of bin, text, json, got 'xml'" in caught.value.details()


def test_rates_are_those_since_the_last_report(model):
    """Counts and times of the requests in between, on a given clock; within a period the report stays."""
    now_s = [10.0]
    metrics = Metrics(lambda: now_s[0])
    metrics.watch(model)
    report = LoadReport(Dataplane([model]), metrics, lambda: now_s[0])
    tally = next(iter(metrics.tallies.values()))
    tally.successes, tally.compute_ns = 30, 1_500_000_000
    tally.failed["error"] += 10
    now_s[0] = 12.0
    ((_, data),) = report.trailers("bin")
    first = orca().FromString(data)
    assert (first.rps_fractional, first.eps, first.application_utilization) == (20.0, 5.0, 0.75)
    tally.successes = 1000
    now_s[0] += PERIOD_S / 2
    assert report.trailers("bin") == (("endpoint-load-metrics-bin", data),)
    now_s[0] += PERIOD_S / 2
    assert orca().FromString(report.trailers("bin")[0][1]).rps_fractional == 970 / PERIOD_S


def reports(address, request: bytes):
    """The stream of reports, as bytes."""
    channel = grpc.insecure_channel(address)
    rpc = channel.unary_stream("/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics")
    return channel, rpc(request, timeout=60.0)


@pytest.mark.parametrize("request_bytes", [b"", b"\x0a\x00", b"\x0a\x02\x10\x01", b"\x12\x04cost"])
def test_reports_come_beside_the_requests(server, request_bytes):
    """Two in a row, as the public message has them; an interval of nothing or of a nanosecond is no flood."""
    channel, stream = reports(server.address, request_bytes)
    begun_s = time.monotonic()
    with channel:
        first, second = orca().FromString(next(stream)), orca().FromString(next(stream))
        assert time.monotonic() - begun_s >= 0.9 * PERIOD_S
        assert 0 < first.mem_utilization < 1
        assert "slowdown" in second.named_metrics
        stream.cancel()


def test_a_request_that_is_no_message_is_refused(server):
    channel, stream = reports(server.address, b"\xff" * 10)
    with channel, pytest.raises(grpc.RpcError) as caught:
        next(stream)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_stream_ends_with_the_server(serve, model):
    """A stream that is open does not hold up the end."""
    with serve([model]) as server:
        channel, stream = reports(server.address, b"\x0a\x03\x08\x90\x1c")  # an hour
        next(stream)
    with channel, pytest.raises(grpc.RpcError) as caught:
        next(stream)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
