"""Connections: limits on the resources of one and of all, with frames that no gRPC library sends."""

from __future__ import annotations

import gzip
import json
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nested_sparse.errors import ServingError
from nested_sparse.proto import messages
from nested_sparse.serving.bench.serving.server_process import ServerProcess, running_server
from nested_sparse.serving.connections.connection_limits import ConnectionLimits
from nested_sparse.serving.server import LEAST_MESSAGE_BYTES, ServerConfig
from raw_http2 import (
    ACK,
    CANCEL,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    MAX_CONCURRENT_STREAMS,
    METHOD,
    PING,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    RawPeer,
    frame,
    message,
    settings_of,
)
from support import EXAMPLE

X = np.arange(8, dtype=np.float32).reshape(2, 4)
MIB = 1 << 20


def request(array: np.ndarray = X) -> messages.ModelInferRequest:
    it = messages.ModelInferRequest(model_name="net")
    it.inputs.add(name="x", datatype="FP32", shape=array.shape)
    it.raw_input_contents.append(array.tobytes())
    return it


def alive(address: str) -> bool:
    """Whether a well-behaved client is answered."""
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        return bool(check(health_pb2.HealthCheckRequest(), timeout=30).status)


def limited(serve, model, **limits):
    return serve([model], ServerConfig(port=0, grace_s=5, connections=ConnectionLimits(**limits)))


def closes(connection: socket.socket, seconds: float = 30.0) -> bool:
    """Whether the server ends a connection that says nothing."""
    connection.settimeout(seconds)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:  # reset
        pass
    return True


def plain(address: str) -> socket.socket:
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=30)


def peak_bytes(pid: int) -> int:
    """The most that a process has had in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


@pytest.fixture(scope="module")
def process():
    """A server of the example in a process of its own, whose memory can be told from ours."""
    with running_server(EXAMPLE, ("--threads", "1", "--profile-cache", "off", "--slo-ms", "60000")) as it:
        yield it


def test_streams_are_announced_and_refused_beyond(server):
    """1024 calls of one connection may be open; what comes beyond is refused, for the client to send again."""
    with RawPeer(server.address) as peer:
        settings = peer.next(SETTINGS)
        assert settings is not None
        assert settings_of(settings.payload)[MAX_CONCURRENT_STREAMS] == 1024
        peer.send(b"".join(peer.begin(stream) for stream in range(1, 2 * 1068, 2)))
        refused = []
        while len(refused) < 44 and (reset := peer.next(RST_STREAM)) is not None:
            refused.append(int.from_bytes(reset.payload, "big"))
        assert refused == [REFUSED_STREAM] * 44
        assert alive(server.address)


def test_a_burst_of_honest_calls_is_not_refused(server):
    """As many at once as one connection may have; being late is another matter."""
    with grpc.insecure_channel(server.address) as channel:
        infer, body = channel.unary_unary(METHOD), request().SerializeToString()
        infer(body, timeout=30)
        calls = [infer.future(body, timeout=60) for _ in range(900)]
        codes = {call.code() for call in calls}
    assert grpc.StatusCode.OK in codes
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}  # shed: no connection's limit


def test_rapid_resets_hold_no_memory(process: ServerProcess):
    """Streams that are begun and reset at once (CVE-2023-44487)."""
    before = psutil.Process(process.pid).memory_info().rss
    with RawPeer(process.address) as peer:
        peer.next(SETTINGS)
        for first in range(1, 60_000, 2_000):
            peer.send(
                b"".join(
                    peer.begin(stream) + frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL))
                    for stream in range(first, first + 2_000, 2)
                )
            )
        assert alive(process.address)
    assert psutil.Process(process.pid).memory_info().rss - before < 100 * MIB


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_does_not_go_off(process: ServerProcess, encoding: str):
    """192 MiB of zeros in a request of 0.9 MB or less: refused, and never held."""
    stream = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | (16 if encoding == "gzip" else 0))
    squeezed = b"".join([*(stream.compress(bytes(16 * MIB)) for _ in range(12)), stream.flush()])
    before = peak_bytes(process.pid)
    with RawPeer(process.address) as peer:
        peer.next(SETTINGS)
        body = message(squeezed, compressed=True)
        parts = [body[at : at + 16_000] for at in range(0, len(body), 16_000)]
        peer.send(peer.begin(1, grpc_encoding=encoding) + b"".join(frame(DATA, 0, 1, part) for part in parts))
        peer.send(frame(DATA, END_STREAM, 1, b""))
        answer = peer.next(HEADERS)
    assert answer is not None
    assert b"grpc-status\x018" in answer.payload  # RESOURCE_EXHAUSTED
    assert f"over {LEAST_MESSAGE_BYTES} bytes once it is decompressed".encode() in answer.payload
    assert peak_bytes(process.pid) - before < 100 * MIB
    assert alive(process.address)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests_are_read(server, compression):
    """A compressed request of an honest client is read as it was sent."""
    big = np.zeros((20_000, 4), np.float32)
    big[:, 1] = np.arange(20_000)
    with grpc.insecure_channel(server.address, compression=compression) as channel:
        infer = channel.unary_unary(METHOD, response_deserializer=messages.ModelInferResponse.FromString)
        answer = infer(request(big).SerializeToString(), timeout=30)
        np.testing.assert_array_equal(np.frombuffer(answer.raw_output_contents[1], np.float32), 2 * big.ravel())
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="net"), timeout=30)
        assert health.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (gzip.compress(request().SerializeToString())[:-1], "do not end as they should"),
        (gzip.compress(request().SerializeToString()) + b"more", "do not end as they should"),
        (b"\x1f\x8b\x08 no stream", "cannot be read"),
        (b"\x78\x9c no stream", "cannot be read"),
    ],
    ids=["cut off", "longer", "no gzip", "no zlib"],
)
def test_a_message_of_broken_compression_is_the_clients_fault(server, body, text):
    """The status is that of a fault of the client, and the text describes it."""
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(METHOD)(body, timeout=30)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert text in caught.value.details()


def test_no_request_begins_as_a_compressed_one():
    """The signs of a compressed message in inflated(): gzip's first byte is no tag, zlib's is field 15, an integer."""
    tag = 0x78
    assert 0x1F & 7 == 7  # no wire type
    requests = [getattr(messages, name) for name in dir(messages) if name.endswith("Request")]
    assert len(requests) >= 9
    for kind in (*requests, health_pb2.HealthCheckRequest):
        assert issubclass(kind, Message)
        assert tag >> 3 not in kind.DESCRIPTOR.fields_by_number
    assert tag & 7 == 0  # an integer, which a text, a message or an array of any later version is not
    assert FieldDescriptor.TYPE_INT64 == 3


def test_connections_are_counted(serve, model):
    """One more than allowed is closed at once; when one has gone, the next is served."""
    with limited(serve, model, connections=2) as server:
        first, second = RawPeer(server.address), RawPeer(server.address)
        assert first.next(SETTINGS)
        assert second.next(SETTINGS)
        with plain(server.address) as third:
            assert closes(third)
        first.socket.close()
        second.socket.close()
        end_s = time.monotonic() + 30
        answered = False
        while not answered and time.monotonic() < end_s:
            try:
                answered = alive(server.address)
            except grpc.RpcError:
                time.sleep(0.05)
        assert answered


def test_silence_is_no_handshake(serve, model):
    """Neither nothing at all nor half a greeting keeps a connection."""
    with limited(serve, model, handshake_s=0.3) as server, plain(server.address) as silent:
        with plain(server.address) as half:
            half.sendall(b"PRI * HTTP/2.0\r\n")
            assert closes(half)
        assert closes(silent)
        assert alive(server.address)


def test_dead_peers_go(serve, model):
    """Connections that answer no ping, with a call open and without."""
    with limited(serve, model, keepalive_s=0.3, ping_timeout_s=0.3) as server:
        with RawPeer(server.address) as idle, RawPeer(server.address) as calling:
            for peer in (idle, calling):
                peer.send(frame(SETTINGS, ACK, 0, b""))
            calling.send(calling.begin(1))
            assert closes(idle.socket)
            assert closes(calling.socket)
        assert alive(server.address)


def test_age_ends_calls_without_end(serve, model):
    """A call whose request never comes does not outlive its connection's age and grace."""
    with limited(serve, model, age_s=0.3, age_grace_s=0.3) as server, RawPeer(server.address) as peer:
        peer.send(peer.begin(1))
        goaway = peer.next(GOAWAY)
        assert goaway is not None
        end = peer.next(HEADERS)
        assert end is not None
        assert b"grpc-status\x0214" in end.payload  # UNAVAILABLE: the client may send it again
        assert alive(server.address)


def test_idle_connections_end(serve, model):
    with limited(serve, model, idle_s=0.3) as server, RawPeer(server.address) as peer:
        assert peer.next(GOAWAY) is not None
        assert closes(peer.socket)
        assert alive(server.address)


def test_clients_may_ping(serve, model):
    """A client that pings in the allowed interval, with no call open, is never told to go away."""
    with limited(serve, model, ping_interval_s=0.05) as server, RawPeer(server.address) as peer:
        for number in range(10):
            peer.send(frame(PING, 0, 0, struct.pack(">Q", number)))
            answer = next(
                each for each in peer.frames() if each.kind == GOAWAY or (each.kind, each.flags) == (PING, ACK)
            )
            assert (answer.kind, answer.payload) == (PING, struct.pack(">Q", number))
            time.sleep(0.1)
        assert not peer.closed


def test_pings_of_kubernetes_are_allowed_by_default():
    """Every 10 seconds is the least that gRPC's own clients ask for."""
    options = dict(ConnectionLimits().options())
    assert options["grpc.http2.min_ping_interval_without_data_ms"] <= 10_000
    assert options["grpc.keepalive_permit_without_calls"] == 1


def test_a_flood_of_pings_ends_the_connection(server):
    with RawPeer(server.address) as peer:
        peer.send(frame(PING, 0, 0, bytes(8)) * 100)
        goaway = peer.next(GOAWAY)
        assert goaway is not None
        assert goaway.payload.endswith(b"too_many_pings")
        assert alive(server.address)


def test_no_text_of_a_peer_reaches_the_log(tmp_path: Path):
    """A farewell message with a forged log line and an escape sequence is not written to the log."""
    forged = b"\x1b[31mred\n2026-01-01 00:00:00 ERROR forged"
    command = [sys.executable, "-m", "nested_sparse.serving.cli", "serve", str(EXAMPLE), "--port", "0", "--json"]
    command += ["--threads", "1", "--profile-cache", "off"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        try:
            address = json.loads(serving.stdout.readline())["address"]
            for code in (0, 2, 11):
                with RawPeer(address) as peer:
                    peer.next(SETTINGS)
                    peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", 0, code) + forged))
                    assert alive(address)
            serving.send_signal(signal.SIGTERM)
            out, log = serving.communicate(timeout=60)
        finally:
            serving.kill()
    assert serving.returncode == 0, log
    assert "serving fashion-mnist" in log  # its own lines are there
    assert "forged" not in out + log
    assert "\x1b" not in out + log


@pytest.mark.parametrize("wrong", [{"streams": 0}, {"age_s": -1.0}, {"idle_s": float("inf")}, {"connections": 0}])
def test_limits_are_checked(wrong):
    with pytest.raises(ServingError, match=f"{next(iter(wrong))}: expected a number above 0"):
        ConnectionLimits(**wrong)
