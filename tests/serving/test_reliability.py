"""Reliability: each request ends in a clear status, whatever clients or device do, on real sockets."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import grpc
import numpy as np
import pytest
from fake_sessions import FakeSession
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from outcomes import outcomes

from nested_sparse.errors import OutOfMemoryError, OverloadedError, StuckError
from nested_sparse.proto import messages
from nested_sparse.runtime.policy.elastic import ElasticPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.scheduling.job import Job
from nested_sparse.runtime.scheduling.scheduler import Scheduler
from nested_sparse.serving.fault import DETAILS_KEY, NO_RETRY, PUSHBACK_KEY
from nested_sparse.serving.server import ServerConfig
from raw_http2 import frame, message, raw_client

X = np.arange(8, dtype=np.float32).reshape(2, 4)
METHOD = f"/{messages.SERVICE_NAME}/ModelInfer"
HEALTH = health_pb2.HealthCheckResponse


def request_bytes(array=X, shape=None, **changes):
    """A ModelInferRequest on the wire."""
    request = messages.ModelInferRequest(model_name="net", **changes)
    request.inputs.add(name="x", datatype="FP32", shape=array.shape if shape is None else shape)
    request.raw_input_contents.append(array.tobytes())
    return request.SerializeToString()


def infer_stub(channel):
    """ModelInfer of bytes, whatever they are."""
    return channel.unary_unary(METHOD, response_deserializer=messages.ModelInferResponse.FromString)


@pytest.fixture
def infer(server):
    with grpc.insecure_channel(server.address) as channel:
        yield infer_stub(channel)


def failure(call):
    """The error of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def double(response):
    """The output "double" as an array."""
    place = [output.name for output in response.outputs].index("double")
    return np.frombuffer(response.raw_output_contents[place], np.float32).reshape(response.outputs[place].shape)


def wait_for(condition, seconds=300.0):
    """Whether `condition` becomes true soon; polls."""
    end_s = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end_s:
        time.sleep(0.005)
    return bool(met)


class GatedSession(FakeSession):
    """Waits in run() while `gate` is closed. ended: runs that have."""

    def __init__(self, like):
        super().__init__(like)
        self.ended = 0
        self.gate = threading.Event()
        self.entered = threading.Event()

    def run(self, inputs, level):
        self.entered.set()
        assert self.gate.wait(600)
        self.ended += 1
        x = inputs["x"]
        return {"sum": x.sum(axis=1, keepdims=True), "double": 2 * x}

    def stop_run(self, thread, begun_before_s):
        """No run of it is taken for stuck."""


@pytest.fixture
def gated(model, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[GatedSession, object]]:
    """A session and a model with the real scheduler over it, which takes no run for stuck, however slow the machine."""
    monkeypatch.setattr("nested_sparse.runtime.scheduling.running_jobs.stuck_after_s", lambda predicted_ms: 600.0)
    session = GatedSession(model)
    profile = LatencyProfile((1,), [[0.01]] * len(model.levels))
    scheduler = Scheduler(session, profile, ElasticPolicy(profile), default_slo_ms=60_000.0)
    yield session, replace(model, engine=scheduler)
    session.gate.set()
    scheduler.close(5.0)


def jobs_alive():
    """Requests that somebody still refers to."""
    gc.collect()
    return sum(isinstance(each, Job) for each in gc.get_objects())


def cancel_many(session, served, serve, rounds, at_once):
    """Queues and cancels rounds · at_once calls behind one that runs; all are counted, and nothing of them is left."""
    scheduler = served.engine
    before = jobs_alive()
    with serve([served], ServerConfig(port=0, grace_s=20)) as server, grpc.insecure_channel(server.address) as channel:
        infer = infer_stub(channel)
        running = infer.future(request_bytes())
        assert session.entered.wait(30)
        for done in range(rounds):
            calls = [infer.future(request_bytes()) for _ in range(at_once)]
            assert wait_for(lambda: scheduler.stats().queue_length == at_once)
            assert jobs_alive() >= before + at_once  # they are what would leak
            for call in calls:
                call.cancel()
            assert wait_for(lambda: scheduler.stats().queue_length == 0)
            assert wait_for(lambda count=(done + 1) * at_once: outcomes(server).get("cancelled") == count)
            assert all(call.code() == grpc.StatusCode.CANCELLED for call in calls)
        del calls, call
        assert wait_for(lambda: jobs_alive() <= before + 1)
        session.gate.set()
        np.testing.assert_array_equal(double(running.result(30)), 2 * X)
        np.testing.assert_array_equal(double(infer(request_bytes())), 2 * X)
    assert outcomes(server) == {"ok": 2, "cancelled": rounds * at_once}
    assert session.ended == 2
    assert jobs_alive() <= before


def test_hundreds_of_cancels(gated, serve):
    cancel_many(*gated, serve, rounds=4, at_once=100)


@pytest.mark.slow
def test_ten_thousand_cancels(gated, serve):
    cancel_many(*gated, serve, rounds=50, at_once=200)


def test_cancels_in_flight(gated, serve):
    """A run in progress is not interrupted, its answer is dropped, and the next request is served."""
    session, served = gated
    with serve([served]) as server, grpc.insecure_channel(server.address) as channel:
        infer = infer_stub(channel)
        for turn in range(20):
            session.gate.clear()
            session.entered.clear()
            call = infer.future(request_bytes())
            assert session.entered.wait(30)
            call.cancel()
            session.gate.set()
            assert wait_for(lambda count=turn + 1: session.ended == count)
        np.testing.assert_array_equal(double(infer(request_bytes())), 2 * X)


def test_a_client_that_goes_away(gated, serve):
    """Its connection ends: what waits is cancelled and does not run."""
    session, served = gated
    with serve([served]) as server:
        gone = grpc.insecure_channel(server.address)
        stub = infer_stub(gone)
        calls = [stub.future(request_bytes()) for _ in range(5)]
        assert session.entered.wait(30)
        assert wait_for(lambda: served.engine.stats().queue_length == 4)
        gone.close()
        assert wait_for(lambda: served.engine.stats().queue_length == 0)
        session.gate.set()
        with grpc.insecure_channel(server.address) as channel:
            np.testing.assert_array_equal(double(infer_stub(channel)(request_bytes())), 2 * X)
        assert session.ended == 2
        assert all(call.done() for call in calls)


def others_are_served(server):
    """Thirty requests from three connections."""
    for _ in range(3):
        with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            infer = infer_stub(channel)
            for _ in range(10):
                np.testing.assert_array_equal(double(infer(request_bytes(), timeout=30)), 2 * X)


def test_clients_that_never_finish_sending(server, model):
    """Half a preface, half a message, a byte now and then: others do not notice, and no request comes of it."""
    host, port = server.address.rsplit(":", 1)
    with contextlib.ExitStack() as clients:
        clients.enter_context(socket.create_connection((host, int(port)))).sendall(b"PRI * HT")
        slow = [clients.enter_context(raw_client(server.address)) for _ in range(10)]
        for client in slow:
            client.sendall(frame(0, 0, 1, message(request_bytes()[:10], length=4_000_000)))
        others_are_served(server)
        for client in slow:
            client.sendall(frame(0, 0, 1, b"\0"))
        others_are_served(server)
        assert len(model.engine.requests) == 60


def test_clients_that_never_read_their_answer(server, model):
    """With a window of nothing the server cannot send them a byte."""
    big = np.ones((3000, 4), np.float32)
    with contextlib.ExitStack() as clients:
        for _ in range(10):
            client = clients.enter_context(raw_client(server.address, window=0))
            body = message(request_bytes(big))
            pieces = [body[at : at + 16000] for at in range(0, len(body), 16000)]
            client.sendall(b"".join(frame(0, int(piece is pieces[-1]), 1, piece) for piece in pieces))
        assert wait_for(lambda: len(model.engine.requests) == 10)
        others_are_served(server)


def test_raw_client_speaks_the_protocol(server, model):
    """Without this the two tests above would prove nothing: a whole message of the client gets an answer."""
    with raw_client(server.address) as client:
        client.sendall(frame(0, 1, 1, message(request_bytes())))
        received = b""
        while (2 * X).tobytes() not in received:
            piece = client.recv(65536)
            assert piece, received
            received += piece
    assert len(model.engine.requests) == 1


NAN = np.array([[np.nan, np.inf, -np.inf, 1]], np.float32)


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"\xff\xff\xff\xff", "INVALID_ARGUMENT", "cannot be parsed as this method's request message"),
        (request_bytes()[:-3], "INVALID_ARGUMENT", "cannot be parsed as this method's request message"),
        (b"", "NOT_FOUND", "no model ''"),
        (request_bytes(np.zeros((0, 4), np.float32)), "INVALID_ARGUMENT", "[0, 4]"),
        (request_bytes(shape=[-2, -4]), "INVALID_ARGUMENT", "[-2, -4]"),
        (request_bytes(shape=[2**62, 2**62]), "INVALID_ARGUMENT", "bytes, got 32"),
        (request_bytes(shape=[1] * 40), "INVALID_ARGUMENT", "at most 32"),
        (request_bytes(np.zeros((300_000, 4), np.float32)), "RESOURCE_EXHAUSTED", "--max-batch"),
    ],
)
def test_malformed_requests_are_the_callers_fault(infer, body, status, text):
    """The status is that of a fault of the caller, with the cause; the next request is served."""
    error = failure(lambda: infer(body))
    assert error.code().name == status
    assert text in error.details()
    assert "incident" not in error.details()
    np.testing.assert_array_equal(double(infer(request_bytes())), 2 * X)


def test_too_large_for_grpc_itself(infer):
    """Twice the limit is not even read."""
    error = failure(lambda: infer(request_bytes(np.zeros((600_000, 4), np.float32))))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in error.details()
    np.testing.assert_array_equal(double(infer(request_bytes())), 2 * X)


def test_numbers_that_are_none_are_answered(infer):
    np.testing.assert_array_equal(double(infer(request_bytes(NAN))), 2 * NAN)


def test_shedding_carries_retry_info(infer, model):
    """The hint is a google.rpc.Status beside the pushback, with the call's code and text."""
    model.engine.error = OverloadedError("shed: full", 1234.5)
    error = failure(lambda: infer(request_bytes()))
    trailers = dict(error.trailing_metadata())
    assert trailers[PUSHBACK_KEY] == "1235"
    status = status_pb2.Status.FromString(trailers[DETAILS_KEY])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    retry = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 1235


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (OutOfMemoryError("net: level 2: out of memory with x [64, 4]"), "net: level 2: out of memory with x [64, 4]"),
        (MemoryError(), "out of memory: the server could not hold this request; send a smaller batch"),
    ],
)
def test_out_of_memory_is_told_from_shedding(infer, model, fault, text):
    """The status is the same with another text, without advice to try again, and the next request is served."""
    model.engine.error = fault
    error = failure(lambda: infer(request_bytes()))
    assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, text)
    trailers = dict(error.trailing_metadata())
    assert trailers[PUSHBACK_KEY] == NO_RETRY
    assert DETAILS_KEY not in trailers
    model.engine.error = None
    np.testing.assert_array_equal(double(infer(request_bytes())), 2 * X)


def test_a_stuck_model_is_not_serving(model, half_model, serve):
    """Its calls are refused at once, for another server to take; the other model goes on; it comes back by itself."""
    stuck = threading.Event()
    stats = model.engine.stats
    model.engine.stats = lambda: replace(stats(), stuck=int(stuck.is_set()))
    with (
        serve([model, half_model]) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        health, infer = health_pb2_grpc.HealthStub(channel), infer_stub(channel)
        ready = channel.unary_unary(
            f"/{messages.SERVICE_NAME}/ModelReady",
            request_serializer=messages.ModelReadyRequest.SerializeToString,
            response_deserializer=messages.ModelReadyResponse.FromString,
        )

        def status(name):
            return health.Check(health_pb2.HealthCheckRequest(service=name)).status

        assert status("net") == HEALTH.SERVING
        stuck.set()
        assert wait_for(lambda: status("net") == HEALTH.NOT_SERVING)
        assert status("half") == status("") == HEALTH.SERVING
        assert not ready(messages.ModelReadyRequest(name="net")).ready
        assert ready(messages.ModelReadyRequest(name="half")).ready
        error = failure(lambda: infer(request_bytes()))
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert "stuck" in error.details()
        half_model.engine.stats = lambda: replace(stats(), stuck=int(stuck.is_set()))
        assert wait_for(lambda: status("") == HEALTH.NOT_SERVING)
        stuck.clear()
        assert wait_for(lambda: status("net") == status("") == HEALTH.SERVING)
        np.testing.assert_array_equal(double(infer(request_bytes())), 2 * X)


def test_a_stuck_run_is_its_clients_status(infer, model):
    """The scheduler's own answer, not that of the server."""
    model.engine.error = StuckError("the inference has run for 12.0 s, expected 0.01")
    error = failure(lambda: infer(request_bytes()))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, str(model.engine.error))


@pytest.mark.parametrize("step_s", [-86_400.0, 86_400.0 * 365])
def test_steps_of_the_wall_clock(gated, serve, monkeypatch: pytest.MonkeyPatch, step_s: float):
    """A request that waits while the wall clock steps is neither expired nor late, and its times are true."""
    session, served = gated
    clocks: dict[str, Callable[[], float]] = {"time": time.time, "time_ns": time.time_ns}
    with serve([served]) as server, grpc.insecure_channel(server.address) as channel:
        infer = infer_stub(channel)
        running = infer.future(request_bytes(), timeout=50)
        assert session.entered.wait(30)
        waiting = infer.future(request_bytes(), timeout=50)
        assert wait_for(lambda: served.engine.stats().queue_length == 1)
        monkeypatch.setattr(time, "time", lambda: clocks["time"]() + step_s)
        monkeypatch.setattr(time, "time_ns", lambda: clocks["time_ns"]() + int(step_s * 1e9))
        session.gate.set()
        # no deadline after the step: gRPC's client, in this process too, reckons it by the wall clock
        for answer in (running.result(60), waiting.result(60), infer(request_bytes())):
            np.testing.assert_array_equal(double(answer), 2 * X)
            assert 0 <= answer.parameters["queue_us"].int64_param < 50e6
            assert 0 <= answer.parameters["compute_us"].int64_param < 50e6
    assert outcomes(server) == {"ok": 3}


def test_a_request_behind_an_endless_run_ends_at_its_deadline(gated):
    from nested_sparse.runtime.scheduling.request import Request

    session, served = gated
    served.engine.submit(Request({"x": X}))
    assert session.entered.wait(30)
    behind = served.engine.submit(Request({"x": X}, slo_ms=200.0))
    assert behind.exception(timeout=60.0) is not None
