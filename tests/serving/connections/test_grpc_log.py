"""gRPC's log: it repeats text of peers, so it is off in our processes unless the user asks for it."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading

import pytest

from raw_http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    SETTINGS,
    RawPeer,
    call_headers,
    frame,
    message,
)

FORGED = b"\x1b[31mred\n2026-01-01 00:00:00 ERROR forged"


def bid_farewell(listener: socket.socket) -> None:
    """To every client, in words that look like a log."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # closed
            return
        with connection:
            connection.sendall(frame(SETTINGS, 0, 0, b"") + frame(GOAWAY, 0, 0, struct.pack(">II", 0, 2) + FORGED))
            connection.settimeout(5)
            try:
                while connection.recv(4096):
                    pass
            except OSError:
                pass


def test_no_text_of_a_server_reaches_a_clients_terminal():
    """Our own clients too: `top` of a server that only says goodbye."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=bid_farewell, args=(listener,), daemon=True)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        command = [sys.executable, "-m", "nested_sparse.serving.cli", "top", address, "--once"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    shown = done.stdout + done.stderr
    assert f"no inference server answers at {address}" in shown
    assert "\x1b" not in shown
    assert not any(line.startswith("2026-01-01") for line in shown.splitlines())


@pytest.mark.parametrize(("asked", "got"), [(None, "NONE"), ("DEBUG", "DEBUG"), ("", "")])
def test_the_user_has_the_last_word(asked, got):
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    if asked is not None:
        environment["GRPC_VERBOSITY"] = asked
    script = """import os, sys, nested_sparse.serving.connections.front
assert 'grpc' in sys.modules
print(os.environ['GRPC_VERBOSITY'])"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == got


def test_a_methods_name_is_no_line_in_the_log(server, caplog):
    """Bytes that are no text, which the client is told of, a thousand times or once."""
    with RawPeer(server.address) as peer:
        headers = call_headers(server.address, **{":path": "/\xff\x1b[31m\n2026-01-01 forged"})
        for stream in (1, 3, 5):
            call = frame(HEADERS, END_HEADERS, stream, headers) + frame(DATA, END_STREAM, stream, message(b""))
            peer.send(call)
            assert peer.next(HEADERS) is not None
    assert not caplog.records
    with RawPeer(server.address) as peer:
        peer.infer(1, b"")
        assert peer.next(HEADERS) is not None
