"""Raw HTTP/2: a client for frames that no gRPC library would send."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from nested_sparse.proto import messages

METHOD = f"/{messages.SERVICE_NAME}/ModelInfer"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
"""Kinds of frames (RFC 9113, section 6)."""
END_STREAM, END_HEADERS = 1, 4
ACK = 1
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW = 3, 4
"""Settings."""
REFUSED_STREAM, CANCEL = 7, 8
"""Codes of errors (section 7)."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One of HTTP/2 (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def call_headers(address: str, **more: str) -> bytes:
    """Headers of a gRPC call, as HPACK literals without indexing (RFC 7541, 6.2.2). more: with _ for -; Latin-1."""
    fields = {":method": "POST", ":scheme": "http", ":path": METHOD, ":authority": address, "te": "trailers"}
    fields["content-type"] = "application/grpc"
    fields.update({name.replace("_", "-"): value for name, value in more.items()})
    texts = [part.encode("latin-1") for field in fields.items() for part in field]
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


def message(body: bytes, length: int | None = None, compressed: bool = False) -> bytes:
    """Body with gRPC's prefix, which may announce more than comes."""
    return struct.pack(">BI", compressed, len(body) if length is None else length) + body


@dataclass(frozen=True, slots=True)
class Frame:
    """One that the server sent."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class RawPeer:
    """A connection whose frames are written by hand, and whose answers can be read."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self.address = address
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.closed = False
        self._read = b""
        self.send(PREFACE + frame(SETTINGS, 0, 0, b""))

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self.socket.settimeout(30)
        self.socket.sendall(data)

    def begin(self, stream: int, **more: str) -> bytes:
        """The frame that begins a ModelInfer call."""
        return frame(HEADERS, END_HEADERS, stream, call_headers(self.address, **more))

    def infer(self, stream: int, body: bytes) -> None:
        """A whole ModelInfer call."""
        self.send(self.begin(stream) + frame(DATA, END_STREAM, stream, message(body)))

    def frames(self, seconds: float = 30.0) -> Iterator[Frame]:
        """The server's frames, until it closes the connection (`closed`) or `seconds` have passed."""
        end_s = time.monotonic() + seconds
        while True:
            while len(self._read) >= 9 and len(self._read) >= 9 + int.from_bytes(self._read[:3], "big"):
                end = 9 + int.from_bytes(self._read[:3], "big")
                kind, flags, stream = struct.unpack(">BBI", self._read[3:9])
                payload, self._read = self._read[9:end], self._read[end:]
                if kind == SETTINGS and not flags & ACK:
                    self.send(frame(SETTINGS, ACK, 0, b""))  # else its windows stay as narrow as they begin
                yield Frame(kind, flags, stream, payload)
            self.socket.settimeout(max(0.001, end_s - time.monotonic()))
            try:
                got = self.socket.recv(1 << 16)
            except TimeoutError:
                return
            except OSError:
                got = b""
            if not got:
                self.closed = True
                return
            self._read += got

    def next(self, kind: int, seconds: float = 30.0) -> Frame | None:
        """The next frame of a kind, None where there is none in time."""
        return next((each for each in self.frames(seconds) if each.kind == kind), None)


def settings_of(payload: bytes) -> dict[int, int]:
    """The settings in a SETTINGS frame's payload: identifier to value."""
    return dict(struct.unpack_from(">HI", payload, at) for at in range(0, len(payload), 6))
