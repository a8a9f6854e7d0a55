"""Limits of the HTTP port: no client can take it from the others, whatever it sends or leaves out."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from nested_sparse.serving.http.http_limits import HttpLimits
from nested_sparse.serving.server import Server, ServerConfig

pytest.importorskip("aiohttp", reason="the extra [http] is not installed")

QUICK = HttpLimits(connections=4, silent_s=0.4, body_s=0.4, body_bytes_per_s=1 << 20)
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}).encode()
HEAD = b"POST /v2/models/net/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
WAIT_S = 30.0


@pytest.fixture
def quick(model: Any, serve: Any) -> Iterator[Server]:
    """A server with short limits."""
    with serve([model], ServerConfig(port=0, http_port=0, grace_s=5, http_limits=QUICK)) as server:
        yield server


@pytest.fixture
def few(model: Any, serve: Any) -> Iterator[Server]:
    """A server that takes four connections."""
    with serve([model], ServerConfig(port=0, http_port=0, grace_s=5, http_limits=HttpLimits(connections=4))) as server:
        yield server


def connect(server: Server, *, buffer_bytes: int | None = None) -> socket.socket:
    host, port = server.http_address.split(":")
    connection = socket.socket()
    if buffer_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    connection.settimeout(WAIT_S)
    connection.connect((host, int(port)))
    return connection


def rest_of(connection: socket.socket) -> bytes:
    """All that comes until the connection is closed, by whichever means."""
    got = b""
    try:
        while part := connection.recv(1 << 16):
            got += part
    except ConnectionError:
        pass
    return got


def still_answers(server: Server) -> bool:
    request = urllib.request.Request(f"http://{server.http_address}/v2/models/net/infer", BODY)
    with urllib.request.urlopen(request, timeout=WAIT_S) as response:
        return bool(response.status == 200)


def until(true: Callable[[], bool]) -> bool:
    end_s = time.monotonic() + WAIT_S
    while not true() and time.monotonic() < end_s:
        time.sleep(0.01)
    return true()


@pytest.mark.parametrize("sent", [b"", b"GET ", b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nA: "])
def test_a_silent_client_is_closed(quick, sent):
    with connect(quick) as connection:
        connection.sendall(sent)
        assert b"200" not in rest_of(connection)
    assert still_answers(quick)


def test_a_body_that_never_ends_is_refused(quick):
    with connect(quick) as connection:
        connection.sendall(HEAD % len(BODY) + BODY[:-1])
        assert b"too slowly" in rest_of(connection)
    assert still_answers(quick)


def test_a_client_that_waits_for_leave_to_send_gets_it(few):
    """And is refused before it sends a body that is too large."""
    with connect(few) as connection:
        connection.sendall((HEAD % len(BODY)).replace(b"Host: localhost", b"Host: localhost\r\nExpect: 100-continue"))
        assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    with connect(few) as connection:
        connection.sendall((HEAD % 10**12).replace(b"Host: localhost", b"Host: localhost\r\nExpect: 100-continue"))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413")


def test_a_client_that_leaves_cancels_its_request(quick, model):
    """Work without a reader is not done."""
    model.engine.held = True
    connection = connect(quick)
    connection.sendall(HEAD % len(BODY) + BODY)
    assert until(lambda: len(model.engine.pending) == 1)
    connection.close()
    assert until(lambda: model.engine.pending[0].cancelled())


def test_the_connection_that_waits_longest_makes_room(few):
    with ExitStack() as stack:
        first, *_ = [stack.enter_context(connect(few)) for _ in range(4)]
        assert still_answers(few)
        assert rest_of(first) == b""


def test_connections_at_work_are_not_closed_for_others(few, model):
    model.engine.held = True
    with ExitStack() as stack:
        busy = [stack.enter_context(connect(few)) for _ in range(4)]
        for connection in busy:
            connection.sendall(HEAD % len(BODY) + BODY)
        assert until(lambda: len(model.engine.pending) == 4)
        assert rest_of(stack.enter_context(connect(few))) == b""
        for future in model.engine.pending:
            future.set_result(model.engine.response({"x": np.ones((1, 4), np.float32)}, 0))
        assert all(connection.recv(1 << 16).startswith(b"HTTP/1.1 200") for connection in busy)


def test_a_client_that_does_not_read_is_closed(quick, model):
    rows = 200_000
    body = {
        "inputs": [{"name": "x", "shape": [rows, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16 * rows}}]
    }
    head = json.dumps(body).encode()
    with connect(quick, buffer_bytes=4096) as connection:
        lines = (HEAD % (len(head) + 16 * rows)).replace(
            b"\r\n\r\n", b"\r\nInference-Header-Content-Length: %d\r\n\r\n"
        )
        connection.sendall(lines % len(head) + head + bytes(16 * rows))
        assert until(lambda: len(model.engine.requests) == 1)
        assert until(lambda: not quick._http._connections.connections)
        head, _, got = rest_of(connection).partition(b"\r\n\r\n")
        assert len(got) < int(re.search(rb"Content-Length: (\d+)", head)[1])
    assert still_answers(quick)


def test_a_client_that_leaves_in_its_body_writes_no_log(quick, caplog):
    """Otherwise any client could fill the disk."""
    with connect(quick) as connection:
        connection.sendall(HEAD % len(BODY) + BODY[:-1])
        assert until(lambda: quick._http._held_bytes == len(BODY) - 1)
    assert until(lambda: not quick._http._connections.connections)
    assert still_answers(quick)
    assert caplog.records == []


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v2/models/net/infer HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v2/models/net/infer HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v2/models/net/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD % 10**15,
    ],
)
def test_the_next_client_is_answered_after_any_bytes(quick, caplog, sent):
    """The bad one gets an error or is closed, and writes no traceback into the log."""
    with connect(quick) as connection:
        connection.sendall(sent)
        got = rest_of(connection)
        assert got == b"" or got.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    assert still_answers(quick)
    assert not [record for record in caplog.records if record.exc_info]


def test_all_bodies_together_are_bounded(model, serve):
    """Many uploads at once are refused with a status before they take the memory."""
    with serve([model], ServerConfig(port=0, http_port=0, grace_s=5)) as server, ExitStack() as stack:
        server._http._upload_bytes = 1 << 20
        connections = [stack.enter_context(connect(server)) for _ in range(3)]
        for connection in connections[:2]:
            connection.sendall(HEAD % (1 << 20) + b" " * (400 << 10))
        assert until(lambda: server._http._held_bytes == 800 << 10)
        connections[2].sendall(HEAD % (1 << 20) + b" " * (400 << 10))
        assert b"503" in connections[2].recv(1 << 16)
        for connection in connections[:2]:
            connection.close()
        assert until(lambda: server._http._held_bytes == 0)
        assert still_answers(server)


def test_a_stopping_server_answers_what_runs_and_refuses_the_rest(model, serve):
    model.engine.held = True
    with serve([model], ServerConfig(port=0, http_port=0, grace_s=WAIT_S)) as server, ExitStack() as stack:
        host, port = server.http_address.split(":")
        running, late = stack.enter_context(connect(server)), stack.enter_context(connect(server))
        running.sendall(HEAD % len(BODY) + BODY)
        assert until(lambda: len(model.engine.pending) == 1)
        ending = asyncio.run_coroutine_threadsafe(server.drain(), server._http._watch.get_loop())
        assert until(lambda: not server._dataplane.ready)
        late.sendall(HEAD % len(BODY) + BODY)
        assert late.recv(1 << 16).startswith(b"HTTP/1.1 503")
        late.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert late.recv(1 << 16).startswith(b"HTTP/1.1 400")
        model.engine.pending[0].set_result(model.engine.response({"x": np.ones((1, 4), np.float32)}, 0))
        assert running.recv(1 << 16).startswith(b"HTTP/1.1 200")
        ending.result(WAIT_S)
        assert rest_of(running) == rest_of(late) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=WAIT_S)
