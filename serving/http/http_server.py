"""HttpServer: the REST interface, the metrics and the dashboard over HTTP/1.1."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from aiohttp import web

from nested_sparse.errors import InputError, NotFoundError, TooLargeError, UnavailableError

from ..connections.front import waited_s
from ..connections.unix_socket import SCHEME, UnixSocket
from ..fault import EndedError, Ending, ending_of
from ..metrics_text import MetricsText
from ..protocol.inflate import inflated
from ..protocol.wire import HEADER_BYTES
from .connections import HttpConnections
from .dashboard.dashboard import HEADERS, POINTS_PATH, Dashboard
from .failure import SAFE_HEADERS, error_response, failure
from .http_limits import HttpLimits
from .infer_body import HEADER_LENGTH, WantedForm, read_infer_body, write_infer_body
from .json_message import read_json
from .local_call import LocalCall, LocalContext
from .routes import answer_of, find_route, request_bytes
from .sender import check_sender

ResultT = TypeVar("ResultT")
LARGE_BYTES = 1 << 15
"""Bodies above this are converted in a thread beside the event loop's, one at a time."""
JSON_BYTES_PER_BYTE = 8
"""A value takes up to so many bytes more as JSON than as raw data: the limit of a body that is all JSON."""
READING = "ServerMetadata"
"""The RPC whose right the metrics and the dashboard's figures take."""
BACKLOG = 128
NO_TEXT = "The body has a string that is no text: half of a surrogate pair."
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_QUIET = logging.getLogger(f"{__name__}.aiohttp")
_QUIET.setLevel(logging.CRITICAL + 1)  # aiohttp writes a traceback for each request that is no HTTP


class HttpServer:
    """Answers HTTP on a port, on a unix socket, or on both, until close(). Belongs to one event loop.

    handlers: gRPC's generic handlers of the server, in their order; REST asks them, too.
    message_bytes: bytes that a request of an inference may have. upload_bytes: of all bodies that are being received.
    on_unread: called with the error of each inference that is refused before its message is made, for the metrics.
    is_local: see check_sender.
    """

    def __init__(
        self,
        handlers: Sequence[Any],
        metrics: MetricsText,
        message_bytes: int,
        upload_bytes: int,
        dashboard: Dashboard,
        limits: HttpLimits | None = None,
        *,
        on_unread: Callable[[Exception], None] = lambda error: None,
        is_local: bool = False,
    ) -> None:
        self._handlers = handlers
        self._metrics = metrics
        self._message_bytes = message_bytes
        self._upload_bytes = upload_bytes
        self._dashboard = dashboard
        self._on_unread = on_unread
        self._is_local = is_local
        self._held_bytes = 0
        self._limits = limits or HttpLimits()
        self._converting = asyncio.Lock()
        self._connections: HttpConnections | None = None
        self._servers: list[asyncio.Server] = []
        self._unix_socket: UnixSocket | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen on that address. Returns the port, which the system picks where it is 0. Raises OSError."""
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            timeout_s = None if tls is None else self._limits.silent_s
            server = await asyncio.get_running_loop().create_server(
                self._watched(), sock=listener, backlog=BACKLOG, ssl=tls, ssl_handshake_timeout=timeout_s
            )
        except BaseException:
            listener.close()
            raise
        self._servers.append(server)
        bound: int = listener.getsockname()[1]
        return bound

    async def start_unix(self, unix_socket: UnixSocket) -> None:
        """Listen on that socket, too, without TLS. Raises ServingError."""
        listener = unix_socket.listener()
        self._unix_socket = unix_socket
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_unix_server(self._watched(), sock=listener, backlog=BACKLOG))

    def _watched(self) -> HttpConnections:
        """The connections, of all doors together; made and watched from the first one on."""
        if self._connections is None:
            self._connections = HttpConnections(
                self._answer, self._limits, access_log=None, logger=_QUIET, auto_decompress=False, lingering_time=1.0
            )
            self._watch = asyncio.create_task(self._connections.watch())
        return self._connections

    async def close(self, grace_s: float) -> None:
        """Stop listening; wait at most `grace_s` for the answers under way, and end all connections."""
        if self._connections is None or self._watch is None:
            return
        for server in self._servers:
            server.close()
        if self._unix_socket is not None:
            self._unix_socket.close()
        self._watch.cancel()
        self._dashboard.history.close()
        self._connections.pre_shutdown()
        await self._connections.shutdown(grace_s)
        self._connections.abort_all()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        """The answer to one request; every error ends here."""
        try:
            response = await self._answer_or_raise(request)
        except EndedError as error:
            response = failure(error.ending)
        except (ConnectionError, web.RequestPayloadError):  # the client left in its body, or broke it off
            response = failure(Ending.of(InputError("The body ended before its end.")))
            response.force_close()
        except UnicodeEncodeError:
            response = failure(Ending.of(InputError(NO_TEXT)))
        except Exception as error:
            response = failure(ending_of(error, f"{request.method} {request.path}"))
            if isinstance(error, TooLargeError):
                response.set_status(413)
                response.force_close()  # the rest of the body is not read
        response.headers.update(SAFE_HEADERS)
        return response

    async def _answer_or_raise(self, request: web.BaseRequest) -> web.Response:
        check_sender(request.headers, is_local=self._is_local)
        path = request.raw_path.partition("?")[0]
        if request.method in ("GET", "HEAD") and (file := self._dashboard.file(path)) is not None:
            return web.Response(body=file[1], content_type=file[0], charset="utf-8", headers=HEADERS)
        if request.method in ("GET", "HEAD") and path in ("/metrics", POINTS_PATH):
            return await self._answer_figures(request, path)
        route, fields, allowed = find_route(request.method, path)
        if route is None and allowed:
            return error_response(405, "The path has other methods.", {"Allow": ", ".join(sorted(allowed))})
        if route is None:
            raise NotFoundError("There is no such path here; docs/rest.md lists those that are.")
        call = self._call(request, route.rpc)
        if call.refused:
            await call.run(b"")
        if route.rpc == "ModelInfer":
            return await self._infer(request, call, fields)
        body = read_json(await self._body(request, HEADER_BYTES))
        status, answer = answer_of(route, await call.run(request_bytes(route, fields, body)))
        return web.json_response(answer, status=status)

    def _call(self, request: web.BaseRequest, rpc: str) -> LocalCall:
        asked = request.get_extra_info
        name = asked("peername")
        if isinstance(name, tuple):
            host, port = name[:2]
            peer = f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
        else:
            peer = SCHEME  # of a unix socket, whose clients have no names
        metadata = tuple((name.lower(), value) for name, value in request.headers.items())
        return LocalCall(self._handlers, rpc, LocalContext(peer, metadata, asked("peercert")))

    async def _answer_figures(self, request: web.BaseRequest, path: str) -> web.Response:
        call = self._call(request, READING)
        if call.refused:
            await call.run(b"")
        if path == POINTS_PATH:
            after = request.query.get("after", "0")
            if not (after.isascii() and after.isdigit() and len(after) < 16):
                raise InputError("after: expected the number of a point.")
            return web.json_response(self._dashboard.history.since(int(after)))
        headers = {name.lower(): value for name, value in request.headers.items()}
        given, body = await self._metrics.collect(request.query_string, headers)
        return web.Response(body=body, headers=given)

    async def _infer(self, request: web.BaseRequest, call: LocalCall, fields: dict[str, str]) -> web.Response:
        try:
            data, form = await self._read_infer(request, fields)
        except (InputError, TooLargeError, UnavailableError) as error:
            self._on_unread(error)
            raise
        answer = bytes(await call.run(data))
        body, length = await self._converted(functools.partial(write_infer_body, answer, form), len(answer))
        headers = call.headers if length is None else {**call.headers, HEADER_LENGTH: str(length)}
        kind = "application/json" if length is None else "application/octet-stream"
        encoding = _wanted_encoding(request.headers.get("Accept-Encoding", ""))
        if encoding:
            headers["Content-Encoding"] = encoding
            body = await self._converted(functools.partial(_deflated, body, encoding), len(body))
        return web.Response(body=body, headers=headers, content_type=kind)

    async def _read_infer(self, request: web.BaseRequest, fields: dict[str, str]) -> tuple[bytes, WantedForm]:
        length = _length(request.headers.get(HEADER_LENGTH))
        body = await self._body(request, self._message_bytes * (JSON_BYTES_PER_BYTE if length is None else 1))
        read = functools.partial(read_infer_body, body, length, fields["model_name"], fields.get("model_version", ""))
        begun_s = time.monotonic()
        try:
            return await self._converted(read, len(body))
        except UnicodeEncodeError:
            raise InputError(NO_TEXT) from None
        finally:
            waited_s.set(waited_s.get() + time.monotonic() - begun_s)  # the request's time counts from its arrival

    async def _converted(self, work: Callable[[], ResultT], nbytes: int) -> ResultT:
        if nbytes <= LARGE_BYTES:
            return work()
        async with self._converting:
            return await asyncio.to_thread(work)

    async def _body(self, request: web.BaseRequest, limit: int) -> bytes:
        """The body of a request, decompressed. Raises TooLargeError, InputError, UnavailableError."""
        encoding = request.headers.get("Content-Encoding", "identity").lower()
        if encoding not in ("identity", "gzip", "deflate"):
            raise InputError("The body's Content-Encoding is unknown here; expected gzip, deflate or identity.")
        if (request.content_length or 0) > limit:
            raise TooLargeError(f"The body has {request.content_length} bytes, at most {limit} are allowed here")
        if request.headers.get("Expect", "").lower() == "100-continue":  # curl waits a second for it
            await request.writer.write(CONTINUE)
            request.writer.output_size = 0  # it is no part of the answer
        begun_s = asyncio.get_running_loop().time()
        parts: list[bytes] = []
        size = 0
        try:
            while not request.content.at_eof():
                left_s = begun_s + self._limits.body_s + size / self._limits.body_bytes_per_s
                wait_s = left_s - asyncio.get_running_loop().time()
                part = await asyncio.wait_for(request.content.readany(), max(0.0, wait_s))
                parts.append(part)
                size += len(part)
                self._held_bytes += len(part)
                if size > limit:
                    raise TooLargeError(f"The body has over {size} bytes, at most {limit} are allowed here")
                if self._held_bytes > self._upload_bytes:
                    raise UnavailableError("The server receives too many bodies at once; send it again later.")
        except asyncio.TimeoutError:
            raise InputError("The body came too slowly.") from None
        finally:
            self._held_bytes -= size
        body = b"".join(parts)
        return body if encoding == "identity" else await inflated(body, limit)


def _length(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise InputError(f"{HEADER_LENGTH}: expected a number of bytes.")
    return int(text)


def _wanted_encoding(accepted: str) -> str:
    """gzip or deflate where it is all that a client says, as Triton has it; "" for the answer as it is."""
    return accepted if accepted in ("gzip", "deflate") else ""


def _deflated(body: bytes, encoding: str) -> bytes:
    stream = zlib.compressobj(level=1, wbits=zlib.MAX_WBITS | (16 if encoding == "gzip" else 0))
    return stream.compress(body) + stream.flush()
