"""Source: counts read from real servers: ours, one with Triton's messages, one with only the core methods."""

from __future__ import annotations

import concurrent.futures
import socket
import threading
from contextlib import closing, contextmanager

import grpc
import numpy as np
import pytest

from nested_sparse.errors import InputError, OverloadedError, ServingError, UnavailableError
from nested_sparse.proto import messages
from nested_sparse.serving.connections.listening import check_listenable
from nested_sparse.serving.server import ServerConfig
from nested_sparse.serving.top.rates import rates_between
from nested_sparse.serving.top.source import CountsSource

NOBODY = "127.0.0.1:1"
CONFIG = ServerConfig(port=0, metrics_port=0, grace_s=5)


@pytest.fixture
def source():
    """Makes sources and closes them."""
    made = []

    def make(address, *arguments, **options):
        made.append(CountsSource(address, *arguments, **{"timeout_s": 60.0, **options}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def infer(address, model="net", version=""):
    """One request of one sample by plain gRPC; whether it was answered."""
    request = messages.ModelInferRequest(model_name=model, model_version=version)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(np.zeros(4, np.float32).tobytes())
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            f"/{messages.SERVICE_NAME}/ModelInfer",
            request_serializer=messages.ModelInferRequest.SerializeToString,
            response_deserializer=messages.ModelInferResponse.FromString,
        )
        try:
            call(request, timeout=20)
        except grpc.RpcError:
            return False
        return True


@contextmanager
def foreign_server(**answers):
    """A server of the protocol that has these methods only; each value is the serialised response."""
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(lambda request, context, text=text: text)
        for name, text in answers.items()
    }
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(messages.SERVICE_NAME, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_versions_are_one_model(make_model, serve, source):
    """It is ready where one of them is, and they are counted together."""
    index = messages.RepositoryIndexResponse()
    for version, state, reason in (("1", "READY", ""), ("2", "UNAVAILABLE", "broken")):
        index.models.add(name="net", version=version, state=state, reason=reason)
        index.models.add(name="old", version=version, state="UNAVAILABLE", reason=f"unloaded {version}")
    metadata = messages.ServerMetadataResponse(name="x").SerializeToString()
    with foreign_server(
        ServerMetadata=metadata,
        ServerReady=messages.ServerReadyResponse(ready=True).SerializeToString(),
        RepositoryIndex=index.SerializeToString(),
    ) as address:
        assert [(each.name, each.state) for each in source(address).read().models] == [
            ("net", "ready"),
            ("old", "unloaded 2"),
        ]
    with serve([make_model("net"), make_model("net", version="2")], CONFIG) as server:
        assert all(infer(server.address, version=version) for version in ("1", "2", ""))
        (counts,) = source(server.address).read().models
    assert (counts.name, counts.answered) == ("net", 3)
    assert counts.compute_ms == pytest.approx(7.5)


def test_all_figures_of_our_server_are_read(model, serve, source):
    """Its metrics are found by what it announces."""
    with serve([model], CONFIG) as server:
        reader = source(server.address)
        before = reader.read()
        assert all(infer(server.address) for _ in range(3))
        model.engine.error = OverloadedError("shed", 5.0)
        assert not infer(server.address)
        after = reader.read()
    assert (after.state, after.note) == ("ready", "")
    assert after.server.startswith("nested-sparse ")
    (rates,) = rates_between(before, after).models
    assert (rates.name, rates.state) == ("net", "ready")
    assert rates.answered_share == rates.in_time_share == 0.75
    assert (rates.level_shares, rates.shed, rates.late) == ({2: 1.0}, 1, 0)
    assert (rates.slowdown, rates.queue_length) == (1.25, 0)
    assert rates.mean_compute_ms == 2.5
    assert 0 <= rates.mean_queue_ms <= 1.5  # without the time that the message took to become arrays
    assert rates.queue_ms is not None
    assert 1.0 <= rates.queue_ms[0] <= rates.queue_ms[1] <= 2.5


def test_a_server_without_metrics_is_shown_with_a_note(server, source):
    """The message also has the option that turns them on."""
    counts = source(server.address).read()
    assert "serve --metrics-port" in counts.note
    assert [model.metrics for model in counts.models] == [None]


def test_metrics_that_do_not_answer_are_a_note(server, source):
    """Nothing listens; or what listens is no Prometheus: both are said, and the rest is shown."""
    for counts in (source(server.address, NOBODY).read(), source(server.address, server.address).read()):
        assert counts.note.startswith("no metrics from http://127.0.0.1:")
        assert [model.name for model in counts.models] == ["net"]


def test_a_draining_server_is_draining(model, serve, source):
    """While a request is still running."""
    model.engine.held = True
    with serve([model], ServerConfig(port=0, grace_s=30)) as server, concurrent.futures.ThreadPoolExecutor() as pool:
        reader = source(server.address)
        assert reader.read().state == "ready"
        running = pool.submit(infer, server.address)
        while not model.engine.pending:
            threading.Event().wait(0.01)
        server._dataplane._draining = True
        counts = reader.read()
        assert (counts.state, [each.state for each in counts.models]) == ("draining", ["draining"])
        request = model.engine.requests[0]
        model.engine.pending[0].set_result(model.engine.response(request.inputs, 0))
        assert running.result(20)


def test_an_unmodified_triton_server(source):
    """With messages made by Triton's own classes, fields of its that we do not have included."""
    pb = pytest.importorskip("tritonclient.grpc.service_pb2", reason="tritonclient is not installed")
    statistics = pb.ModelStatisticsResponse()
    it = statistics.model_stats.add(name="resnet", version="3", inference_count=9, execution_count=4)
    it.inference_stats.success.count, it.inference_stats.fail.count = 8, 2
    it.inference_stats.queue.ns, it.inference_stats.compute_infer.ns = 16_000_000, 80_000_000
    it.inference_stats.compute_input.ns = 1
    it.batch_stats.add(batch_size=2)
    index = pb.RepositoryIndexResponse()
    index.models.add(name="resnet", version="3", state="READY")
    index.models.add(name="bert", version="1", state="UNAVAILABLE", reason="unloaded")
    answers = {
        "ServerMetadata": pb.ServerMetadataResponse(name="triton", version="2.73", extensions=["statistics"]),
        "ServerReady": pb.ServerReadyResponse(ready=True),
        "ModelStatistics": statistics,
        "RepositoryIndex": index,
    }
    with foreign_server(**{name: each.SerializeToString() for name, each in answers.items()}) as address:
        counts = source(address).read()
    assert (counts.server, counts.state) == ("triton 2.73", "ready")
    resnet, bert = counts.models
    assert (resnet.name, resnet.state, resnet.answered, resnet.failed) == ("resnet", "ready", 8, 2)
    assert (resnet.queue_ms, resnet.compute_ms, resnet.metrics) == (16.0, 80.0, None)
    assert (bert.name, bert.state, bert.answered) == ("bert", "unloaded", 0)


def test_a_server_of_the_core_protocol_only(source):
    """KServe's: alive, and no more is known."""
    answers = {
        "ServerMetadata": messages.ServerMetadataResponse(name="kserve"),
        "ServerReady": messages.ServerReadyResponse(ready=False),
    }
    with foreign_server(**{name: each.SerializeToString() for name, each in answers.items()}) as address:
        counts = source(address).read()
    assert (counts.state, counts.models) == ("not ready", ())
    assert counts.note.startswith("it has no statistics; it has no index; no metrics")


@pytest.mark.parametrize("port", ["0", "65536", "99999", "9" * 5000])
def test_a_port_that_cannot_be_is_not_announced(source, port):
    """A server that announces such a port has no metrics for us."""
    answers = {
        "ServerMetadata": messages.ServerMetadataResponse(extensions=[f"prometheus_metrics({port})"]),
        "ServerReady": messages.ServerReadyResponse(ready=True),
    }
    with foreign_server(**{name: each.SerializeToString() for name, each in answers.items()}) as address:
        assert "no metrics: " in source(address).read().note


def test_the_text_of_a_foreign_server_is_cut_and_escaped(source):
    """The details of its errors may be up to 8 kB of any text."""
    details = "\x1b[2J\nforged" + 3000 * "x"

    def refuse(request, context):
        context.abort(grpc.StatusCode.INTERNAL, details)

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    handlers = {"ServerMetadata": grpc.unary_unary_rpc_method_handler(refuse)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(messages.SERVICE_NAME, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(UnavailableError, match=r"ServerMetadata: INTERNAL, \\x1b\[2J\\nforgedx") as caught:
            source(f"127.0.0.1:{port}").read()
    finally:
        server.stop(None).wait()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_the_error_of_an_absent_server_names_the_address(source):
    """The address has no server, one that never answers, or a gRPC server of another kind."""
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=f"no inference server answers at {address}.*nested-sparse serve"):
            source(address, timeout_s=0.2).read()
    with pytest.raises(UnavailableError, match="nested-sparse top HOST:PORT"):
        source(NOBODY).read()
    with foreign_server() as address, pytest.raises(UnavailableError, match="ServerMetadata: UNIMPLEMENTED"):
        source(address).read()


@pytest.mark.parametrize(
    "address", ["localhost", "8001", ":8001", "http://x:1", "a:b", "::1:8001", "", "x:65536", "x:99999", "[::1]:0"]
)
def test_a_text_that_is_no_address_is_refused(source, address):
    """The error comes before any request."""
    with pytest.raises(InputError, match="expected HOST:PORT"):
        source(address)
    with pytest.raises(InputError, match="expected HOST:PORT"):
        source("127.0.0.1:8001", address)


def test_comes_back_with_the_server(model, serve, source):
    """One source over two lives of a server on one port."""
    with serve([model], CONFIG) as server:
        address = server.address
        reader = source(address, timeout_s=5.0)
        assert reader.read().state == "ready"
    with pytest.raises(UnavailableError):
        reader.read()
    port = int(address.rpartition(":")[2])
    try:
        check_listenable("127.0.0.1", port)
    except ServingError as error:
        pytest.skip(f"another process has taken the port: {error}")
    with serve([model], ServerConfig(port=port, grace_s=5)):
        for _ in range(2400):
            try:
                assert reader.read().state == "ready"
                break
            except UnavailableError:
                threading.Event().wait(0.05)
        else:
            pytest.fail("the source did not find the server again")
