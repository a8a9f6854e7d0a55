"""Uploads: requests that are never finished hold bounded memory, without effect on honest clients."""

from __future__ import annotations

import asyncio
import logging
import struct
import time

import grpc
import numpy as np
import pytest

from nested_sparse.errors import ServingError
from nested_sparse.proto import messages
from nested_sparse.serving.connections import uploads
from nested_sparse.serving.connections.listening import check_listenable
from nested_sparse.serving.connections.uploads import Uploads, upload_budget
from nested_sparse.serving.security import SecurityConfig
from nested_sparse.serving.server import LEAST_MESSAGE_BYTES, ServerConfig
from raw_http2 import DATA, METHOD, PING, SETTINGS, WINDOW_UPDATE, RawPeer, frame, message

MIB = 1 << 20
X = np.zeros((20_000, 4), np.float32)


def request_bytes() -> bytes:
    request = messages.ModelInferRequest(model_name="net")
    request.inputs.add(name="x", datatype="FP32", shape=X.shape)
    request.raw_input_contents.append(X.tobytes())
    return request.SerializeToString()


class Hoarder(RawPeer):
    """One call that announces 2 GB, and sends as much as it is let."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.sent = 0
        self._window = {0: 65535, 1: 65535}
        self.send(self.begin(1) + frame(DATA, 0, 1, message(b"", length=2**31 - 1)))

    def hold(self, nbytes: int) -> int:
        """How much of it was sent before the server closed the connection."""
        end_s = time.monotonic() + 60
        while self.sent < nbytes and not self.closed and time.monotonic() < end_s:
            for each in self.frames(0.01 if min(self._window.values()) < 16384 else 0):
                if each.kind == WINDOW_UPDATE:
                    self._window[each.stream] += int.from_bytes(each.payload, "big")
                elif each.kind == SETTINGS and each.payload:
                    self._window[1] += dict(struct.iter_unpack(">HI", each.payload)).get(4, 65535) - 65535
                elif each.kind == PING and not each.flags:
                    self.send(frame(PING, 1, 0, each.payload))
            part = min(16384, nbytes - self.sent, *self._window.values())
            if part > 0:
                try:
                    self.send(frame(DATA, 0, 1, bytes(part)))
                except OSError:
                    self.closed = True
                    break
                self.sent += part
                for stream in self._window:
                    self._window[stream] -= part
        return self.sent


def looking(server, budget_bytes: int, memory: list[int]) -> Uploads:
    """A second look at the server's connections, with a memory that the test says."""
    host, _, port = server.address.rpartition(":")
    return Uploads(host, int(port), server._servicer.calls.taken_bytes, budget_bytes, lambda: memory[0])


def test_a_connection_that_hoards_is_closed_and_one_that_calls_is_not(server, caplog):
    """The connection that calls stays open, although it has sent more in all, because the server took all of it."""
    memory = [100 * MIB]
    own = looking(server, 2 * MIB, memory)
    with RawPeer(server.address) as peer, grpc.insecure_channel(server.address) as channel:
        infer = channel.unary_unary(METHOD)
        for _ in range(20):
            infer(request_bytes(), timeout=30)  # 6 MiB in all
        with Hoarder(server.address) as hoarder:
            assert hoarder.hold(3 * MIB) == 3 * MIB
            asyncio.run(own.look())
            assert not hoarder.closed  # the memory has not grown
            memory[0] += 4 * MIB
            end_s = time.monotonic() + 30
            with caplog.at_level(logging.WARNING):
                while not hoarder.closed and time.monotonic() < end_s:
                    asyncio.run(own.look())
                    list(hoarder.frames(0.05))
            assert hoarder.closed
        assert "closed 1 connections that hold" in caplog.text
        infer(request_bytes(), timeout=30)
        assert peer.next(SETTINGS) is not None
        assert not peer.closed


def test_memory_that_others_take_closes_no_connection(server, caplog):
    memory = [100 * MIB]
    own = looking(server, 2 * MIB, memory)
    with grpc.insecure_channel(server.address) as channel:
        for size in (200, 300, 400):
            memory[0] = size * MIB
            channel.unary_unary(METHOD)(request_bytes(), timeout=30)
            asyncio.run(own.look())
        channel.unary_unary(METHOD)(request_bytes(), timeout=30)
    assert "closed" not in caplog.text


def test_peers_that_have_gone_are_forgotten(server):
    taken = server._servicer.calls.taken_bytes
    own = looking(server, 2 * MIB, [100 * MIB])
    for _ in range(3):
        with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            channel.unary_unary(METHOD)(request_bytes(), timeout=30)
    assert len(taken) >= 3
    end_s = time.monotonic() + 30
    while taken and time.monotonic() < end_s:
        asyncio.run(own._sample())
        time.sleep(0.01)
    assert not taken


def test_the_server_looks_by_itself(model, serve, monkeypatch: pytest.MonkeyPatch):
    """A call that announces 2 GB is ended long before that."""
    monkeypatch.setattr(uploads, "MOST_BYTES", 1)
    hoarders: list[Hoarder] = []
    # not what this process really has: what earlier tests have freed is filled first
    monkeypatch.setattr(uploads, "_resident_bytes", lambda: 100 * MIB + sum(each.sent for each in hoarders))
    with serve([model]) as server, Hoarder(server.address) as hoarder:
        hoarders.append(hoarder)
        assert hoarder.hold(200 * MIB) < 200 * MIB
        assert hoarder.closed
        with grpc.insecure_channel(server.address) as channel:
            channel.unary_unary(METHOD)(request_bytes(), timeout=30)


@pytest.mark.parametrize("host", ["127.0.0.1", "::", "0.0.0.0", "::1", "localhost"])
def test_memory_of_calls_is_counted_for_their_connection(model, serve, host):
    """The memory is found for each way to listen and each form of a peer's address."""
    try:
        check_listenable(host, 0)
    except ServingError as error:
        pytest.skip(f"this machine has no such address: {error}")
    with serve([model], ServerConfig(host=host, port=0, security=SecurityConfig(insecure=True))) as server:
        _, _, port = server.address.rpartition(":")
        address = {"::1": "[::1]", "localhost": "localhost"}.get(host, "127.0.0.1")
        with grpc.insecure_channel(f"{address}:{port}") as channel:
            for _ in range(3):
                channel.unary_unary(METHOD)(request_bytes(), timeout=30)
            own = Uploads(host, int(port), server._servicer.calls.taken_bytes, 2 * MIB, lambda: 100 * MIB)
            unclaimed = asyncio.run(own._sample())
    # the probes of the server's own front are a connection too
    assert unclaimed
    assert all(0 <= nbytes < 100_000 for nbytes in unclaimed.values())  # a call's body is 320 kB


def test_the_budget_is_a_few_messages_or_a_part_of_the_free_memory():
    """A few whole messages, whatever they take; else a part of what is free."""
    assert upload_budget(LEAST_MESSAGE_BYTES) >= 4 * LEAST_MESSAGE_BYTES
    assert upload_budget(2**30) == 4 * 2**30
    assert upload_budget(1) <= uploads.MOST_BYTES
