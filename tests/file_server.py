"""File server: one on loopback that may be slow, lie, or die in the middle of a file."""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PIECE_NBYTES = 4096


@dataclass
class FileServer:
    """Serves `files`, bytes by path, from a thread, within a context.

    rate: bytes a second of one connection; 0: as fast as it can. ranges, etags: whether it has them.
    cut_after: bytes of the next body after which the connection ends. wrong_at: place of a byte of a file that is sent
    wrong. status: sent in place of every answer. headers: sent beside the usual ones, or in place of them. endless: a
    body that does not end, without a length. stalled: nothing is sent until it is false again. forged_range: added to
    the beginning that Content-Range states. trigger: called once, when so many bytes of bodies were sent.
    sent: number of bytes of bodies; see count_anew(). first_s: reading of the monotonic clock at the first request.
    asked: (path, Range, Authorization).
    """

    files: dict[str, bytes] = field(default_factory=dict)
    rate: float = 0.0
    ranges: bool = True
    etags: bool = True
    cut_after: int | None = None
    wrong_at: int | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    redirects: Mapping[str, str] = field(default_factory=dict)
    endless: bool = False
    stalled: bool = False
    forged_range: int = 0
    trigger: tuple[int, Callable[[], None]] | None = None
    port: int = 0
    tls: ssl.SSLContext | None = None
    sent: int = 0
    first_s: float = 0.0
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    _answers: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __enter__(self) -> FileServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Of its root."""
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, at the port of before where it was stopped."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with server._changed:
                    server._answers += 1
                try:
                    server.answer(self)
                finally:
                    with server._changed:
                        server._answers -= 1
                        server._changed.notify_all()

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        ThreadingHTTPServer.allow_reuse_address = True
        self._listening = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._listening.daemon_threads = True
        if self.tls is not None:
            self._listening.socket = self.tls.wrap_socket(self._listening.socket, server_side=True)
        self.port = self._listening.server_address[1]
        self._dead = False
        self._thread = threading.Thread(target=self._listening.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        """Die: end every connection and listen no more."""
        self._dead = True
        self._listening.shutdown()
        self._listening.server_close()
        self._thread.join()

    def count_anew(self, files: dict[str, bytes] | None = None) -> None:
        """Let `sent` begin at 0, and serve `files` from now on; None: the same.

        It waits for the answers under way. A client that was closed may have left one that is still sent.
        """
        with self._changed:
            assert self._changed.wait_for(lambda: self._answers == 0, 60.0), "an answer is still under way"
            self.sent, self.files = 0, self.files if files is None else files

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One GET."""
        self.first_s = self.first_s or time.monotonic()
        asked = request.headers.get("Range", "")
        path = request.path.partition("?")[0]
        self.asked.append((request.path, asked, request.headers.get("Authorization", "")))
        request.close_connection = True
        content = self.files.get(path)
        if self.status is not None or path in self.redirects or content is None:
            status = self.status or (302 if path in self.redirects else 404)
            location = {"Location": self.redirects[path]} if path in self.redirects else {}
            return self._head(request, status, {"Content-Length": "0", **location, **self.headers})
        tag = f'"{sha256(content).hexdigest()[:16]}"'
        if self.etags and request.headers.get("If-None-Match") == tag:
            return self._head(request, 304, {"Content-Length": "0"})
        headers = {"ETag": tag} if self.etags else {}
        begin, end, status = 0, len(content), 200
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
        if self.ranges and found:
            begin = int(found[1])
            if begin >= len(content):
                return self._head(request, 416, {"Content-Length": "0"})
            end, status = min(end, int(found[2] or end) + 1), 206
            headers["Content-Range"] = f"bytes {begin + self.forged_range}-{end - 1}/{len(content)}"
        if not self.endless:
            headers["Content-Length"] = str(end - begin)
        self._head(request, status, headers | self.headers)
        body = bytearray(content)
        if self.wrong_at is not None and self.wrong_at < len(body):
            body[self.wrong_at] ^= 1
        self._body(request, bytes(body[begin:end]), path)

    def _body(self, request: BaseHTTPRequestHandler, body: bytes, path: str) -> None:
        limit = None if path.endswith(".manifest") else self.cut_after
        if limit is not None:
            self.cut_after = None
            body = body[:limit]
        started_s, sent = time.monotonic(), 0
        try:
            while (sent < len(body) or self.endless) and not self._dead:
                while self.stalled and not self._dead:
                    time.sleep(0.01)
                data = body[sent : sent + PIECE_NBYTES] or bytes(PIECE_NBYTES)
                self.sent += len(data)  # before the client can have them, and compare
                request.wfile.write(data)
                sent += len(data)
                self._pull()
                if self.rate:
                    time.sleep(max(0.0, started_s + sent / self.rate - time.monotonic()))
        except OSError:
            return

    def _pull(self) -> None:
        if self.trigger is not None and self.sent >= self.trigger[0]:
            pulled, self.trigger = self.trigger[1], None
            pulled()

    @staticmethod
    def _head(request: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str]) -> None:
        try:
            request.send_response(status)
            for name, value in {**headers, "Connection": "close"}.items():
                request.send_header(name, value)
            request.end_headers()
        except OSError:
            return
