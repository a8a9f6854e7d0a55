"""MetricsServer: the Prometheus text over HTTP/1.1, on the server's event loop, for a bounded number of connections.

prometheus_client makes the text. Its HTTP server is not used: it starts a thread for each connection and waits for
ever.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from dataclasses import dataclass
from http import HTTPStatus

from prometheus_client import CollectorRegistry

from nested_sparse.errors import AccessError

from .fault import HTTP_STATUSES, fault_of
from .metrics_text import MetricsText
from .rights.right import Right
from .security import Security

HEAD_BYTES = 8192
METHODS = ("GET", "HEAD")
PATHS = ("/metrics", "/")
BACKLOG = 128


@dataclass(frozen=True, slots=True)
class MetricsLimits:
    """Limits of the metrics port.

    connections: most connections at once; the next one closes that which has been silent for the longest time.
    request_s: most seconds from the connection, or from the last answer, to the end of a request.
    answer_s: most seconds until the client has read the answer.
    """

    connections: int = 64
    request_s: float = 30.0
    answer_s: float = 10.0


@dataclass(frozen=True, slots=True)
class _HttpRequest:
    method: str
    path: str
    query: str
    headers: dict[str, str]
    stays: bool

    @classmethod
    def read(cls, head: bytes) -> _HttpRequest:
        """The request in the lines before the empty line. Raises ValueError."""
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, version = first.split(" ")
        if version not in ("HTTP/1.0", "HTTP/1.1") or not target.startswith("/"):
            raise ValueError(first)
        headers = {name.lower(): value.strip() for name, separator, value in (line.partition(":") for line in lines)}
        path, _, query = target.partition("?")
        wish = headers.get("connection", "").lower()
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers  # is not read
        stays = not has_body and (wish == "keep-alive" if version == "HTTP/1.0" else wish != "close")
        return cls(method, path, query, headers, stays)


class MetricsServer:
    """Answers GET and HEAD of /metrics with the metrics of `registry`, from start() to close().

    security: gives the certificate, and the rights: metrics take the right of reading.
    """

    def __init__(self, registry: CollectorRegistry, security: Security, limits: MetricsLimits | None = None) -> None:
        self._text = MetricsText(registry)
        self._security = security
        self._limits = limits or MetricsLimits()
        self._writers: OrderedDict[asyncio.StreamWriter, None] = OrderedDict()  # the longest silent first
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen on that address. Returns the port, which the system picks where it is 0. Raises OSError."""
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            tls = self._security.tls
            self._server = await asyncio.start_server(
                self._serve,
                sock=listener,
                limit=HEAD_BYTES,
                backlog=BACKLOG,
                ssl=None if tls is None else tls.context(),
                ssl_handshake_timeout=None if tls is None else self._limits.request_s,
            )
        except BaseException:
            listener.close()
            raise
        bound: int = listener.getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening and end all connections."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers[writer] = None
        if len(self._writers) > self._limits.connections:
            self._writers.popitem(last=False)[0].transport.abort()
        try:
            while await self._answer_next(reader, writer):
                if writer in self._writers:
                    self._writers.move_to_end(writer)
        except (OSError, EOFError, asyncio.TimeoutError):
            writer.transport.abort()  # close() would wait until the client has read everything
        finally:
            self._writers.pop(writer, None)
            writer.close()

    async def _answer_next(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; returns whether the connection stays. Raises OSError, EOFError, TimeoutError."""
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), self._limits.request_s)
            request = _HttpRequest.read(head)
        except asyncio.LimitOverrunError:
            return await self._send(writer, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except ValueError:
            return await self._send(writer, HTTPStatus.BAD_REQUEST)
        if request.method not in METHODS:
            return await self._send(writer, HTTPStatus.METHOD_NOT_ALLOWED, headers=[("Allow", ", ".join(METHODS))])
        stays, bare = request.stays, request.method == "HEAD"
        if request.path not in PATHS:
            return await self._send(writer, HTTPStatus.NOT_FOUND, stays=stays, bare=bare)
        try:
            self._security.rights.check(request.headers.get("authorization"), "", Right.READING)
        except AccessError as error:
            status = HTTPStatus(HTTP_STATUSES[fault_of(error).status])
            wanted = [("WWW-Authenticate", "Bearer")] if status is HTTPStatus.UNAUTHORIZED else []
            return await self._send(writer, status, wanted, stays=stays, bare=bare)
        headers, body = await self._text.collect(request.query, request.headers)
        return await self._send(writer, HTTPStatus.OK, list(headers.items()), body, stays=stays, bare=bare)

    async def _send(
        self,
        writer: asyncio.StreamWriter,
        status: HTTPStatus,
        headers: list[tuple[str, str]] | None = None,
        body: bytes | None = None,
        *,
        stays: bool = False,
        bare: bool = False,
    ) -> bool:
        """Send an answer; returns whether the connection stays. bare: send it without its body."""
        text = f"{status.phrase}\n".encode() if body is None else body
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            *(f"{name}: {value}" for name, value in headers or []),
            f"Content-Length: {len(text)}",
            f"Connection: {'keep-alive' if stays else 'close'}",
        ]
        writer.write("\r\n".join((*lines, "", "")).encode("latin-1") + (b"" if bare else text))
        await asyncio.wait_for(writer.drain(), self._limits.answer_s)
        return stays
