"""HTTP/2 by hand: what no gRPC library would send."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

from nested_sparse.proto import messages

METHOD = f"/{messages.SERVICE_NAME}/ModelInfer"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
"""Kinds of frames (RFC 9113, section 6)."""
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One of HTTP/2 (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def call_headers(address: str) -> bytes:
    """Of a gRPC call, as HPACK literals without indexing (RFC 7541, section 6.2.2)."""
    fields = {":method": "POST", ":scheme": "http", ":path": METHOD, ":authority": address, "te": "trailers"}
    fields["content-type"] = "application/grpc"
    texts = [part.encode() for field in fields.items() for part in field]
    return b"".join(
        b"\0" + b"".join(bytes([len(text)]) + text for text in texts[at : at + 2]) for at in range(0, len(texts), 2)
    )


@contextlib.contextmanager
def raw_client(address: str, window: int = 65535) -> Iterator[socket.socket]:
    """A connection that has begun a ModelInfer call, of which it takes `window` bytes of answer; it reads nothing."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        settings = frame(4, 0, 0, struct.pack(">HI", 4, window))
        headers = frame(1, 4, 1, call_headers(address))
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + headers)
        yield connection


def message(body: bytes, length: int | None = None) -> bytes:
    """Body with gRPC's prefix, which may announce more than comes."""
    return struct.pack(">BI", 0, len(body) if length is None else length) + body
