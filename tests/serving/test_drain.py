"""Drain: the end of a server under load, where every call gets an answer that is not CANCELLED."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import grpc
import numpy as np
import pytest

from nested_sparse.proto import messages
from nested_sparse.serving.server import ServerConfig

X = np.arange(8, dtype=np.float32).reshape(2, 4)
METHOD = f"/{messages.SERVICE_NAME}/ModelInfer"
CONNECTIONS = 16
CALLS = 8


def request_bytes() -> bytes:
    request = messages.ModelInferRequest(model_name="net")
    request.inputs.add(name="x", datatype="FP32", shape=X.shape)
    request.raw_input_contents.append(X.tobytes())
    return request.SerializeToString()


class Hammer:
    """Many connections with several calls each, every one followed by the next at once, whatever its answer."""

    def __init__(self, address: str) -> None:
        self.answers: Counter[tuple[str, bytes]] = Counter()
        self._address = address
        self._body = request_bytes()
        self._ended = threading.Event()
        self._changed = threading.Condition()
        self._open = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as channels:
            for _ in range(CONNECTIONS):
                options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
                channel = channels.enter_context(grpc.insecure_channel(self._address, options))
                for _ in range(CALLS):
                    self._send(channel.unary_unary(METHOD))
            try:
                yield
            finally:
                self._ended.set()
                with self._changed:
                    assert self._changed.wait_for(lambda: not self._open, 60)

    def _send(self, infer) -> None:
        with self._changed:
            self._open += 1
        call = infer.future(self._body, timeout=50)
        call.add_done_callback(lambda done: self._done(infer, done))

    def _done(self, infer, call) -> None:
        text = call.details() or ""
        with self._changed:
            self.answers[call.code().name, text] += 1
            self._open -= 1
            self._changed.notify_all()
        refused_to_connect = "failed to connect" in text
        if not self._ended.is_set() and not refused_to_connect:
            self._send(infer)

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: sum(self.answers.values()) >= count, 60)


@pytest.mark.parametrize("door", ["port", "socket"])
def test_no_call_in_flight_is_cancelled(model, serve, tmp_path, door):
    """OK or UNAVAILABLE, on 16 connections whose clients never stop sending; before the end some may be shed."""
    path = tmp_path / "door"
    with serve([model], ServerConfig(port=0, unix_socket=path)) as server:
        hammer = Hammer(server.address if door == "port" else f"unix:{path}")
        running = hammer.running()
        running.__enter__()
        hammer.wait_for(2 * CONNECTIONS * CALLS)
    time.sleep(0.1)  # whoever is told last
    running.__exit__(None, None, None)
    codes = {code for code, _ in hammer.answers}
    assert codes - {"RESOURCE_EXHAUSTED"} == {"OK", "UNAVAILABLE"}, hammer.answers
    assert all(text.startswith("shed:") for code, text in hammer.answers if code == "RESOURCE_EXHAUSTED")
    assert any("draining" in text for code, text in hammer.answers if code == "UNAVAILABLE")


def test_a_call_that_outlasts_the_grace_is_unavailable(model, serve):
    """UNAVAILABLE tells the client that it may send the call to another server; CANCELLED would not."""
    model.engine.held = True
    with serve([model], ServerConfig(port=0, grace_s=0.2)) as server:
        channel = grpc.insecure_channel(server.address)
        calls = [channel.unary_unary(METHOD).future(request_bytes(), timeout=50) for _ in range(10)]
        end_s = time.monotonic() + 30
        while len(model.engine.pending) < 10 and time.monotonic() < end_s:
            time.sleep(0.005)
    assert [call.code() for call in calls] == [grpc.StatusCode.UNAVAILABLE] * 10
    assert all("stopped before this was done" in call.details() for call in calls)
    assert all(future.cancelled() for future in model.engine.pending)  # no work without a client
    channel.close()


def test_two_servers_on_one_port_end_apart(model, half_model, serve):
    """The end of a server on one address closes no connection of the server on another."""
    with serve([model], ServerConfig(host="127.0.0.1", port=0)) as first:
        port = int(first.address.rpartition(":")[2])
        with grpc.insecure_channel(first.address) as channel:
            infer = channel.unary_unary(METHOD)
            infer(request_bytes(), timeout=30)
            running = channel.unary_unary(METHOD)
            model.engine.held = True
            with serve([half_model], ServerConfig(host="127.0.0.2", port=port)):
                call = running.future(request_bytes(), timeout=50)
                while not model.engine.pending:
                    time.sleep(0.005)
            assert not call.done()
            model.engine.pending[0].set_result(model.engine.response({"x": X}, 0))
            assert call.code() == grpc.StatusCode.OK
