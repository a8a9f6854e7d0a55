"""HttpConnections: bounds on what the clients of the HTTP port hold."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from .failure import no_http
from .http_limits import HttpLimits

LOOK_S = 1.0


@dataclass(slots=True)
class _Connection:
    since_s: float
    unsent_bytes: int = 0


class _Protocol(web.RequestHandler):
    """aiohttp's protocol. Where its parser refuses a request, the answer has the body and headers of our errors."""

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """aiohttp's hook. Raises ConnectionError where a part of an answer is sent already."""
        super().handle_error(request, status, exc, message)
        return no_http(status, message)


class HttpConnections(web.Server):
    """aiohttp's server, which calls `handler` for each request. Belongs to one event loop.

    aiohttp itself bounds heads, and neither the number of connections nor the time that they may be silent.
    """

    def __init__(
        self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], limits: HttpLimits, **options: Any
    ) -> None:
        super().__init__(self._handle, handler_cancellation=True, **options)
        self._options = options
        self._answer = handler
        self._limits = limits
        self._idle: OrderedDict[asyncio.BaseTransport, _Connection] = OrderedDict()  # the longest silent first
        self._busy: set[asyncio.BaseTransport] = set()
        self._clock = asyncio.get_running_loop().time

    def __call__(self) -> web.RequestHandler:
        """aiohttp's hook: the protocol of a new connection."""
        return _Protocol(self, loop=asyncio.get_running_loop(), **self._options)

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        """aiohttp's hook."""
        super().connection_made(handler, transport)
        if len(self._idle) + len(self._busy) >= self._limits.connections:
            _abort(next(iter(self._idle), transport))
        self._idle[transport] = _Connection(self._clock())

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        """aiohttp's hook."""
        transport = self._connections.get(handler)
        super().connection_lost(handler, exc)
        if transport is not None:
            self._idle.pop(transport, None)
            self._busy.discard(transport)

    async def watch(self) -> None:
        """Close the connections that are silent for too long, until cancelled."""
        while True:
            await asyncio.sleep(min(LOOK_S, self._limits.silent_s / 4))
            now_s = self._clock()
            for transport, connection in list(self._idle.items()):
                unsent_bytes = transport.get_write_buffer_size() if isinstance(transport, asyncio.Transport) else 0
                if unsent_bytes < connection.unsent_bytes:  # its client reads
                    connection.since_s = now_s
                connection.unsent_bytes = unsent_bytes
                if now_s - connection.since_s > self._limits.silent_s:
                    _abort(transport)

    def abort_all(self) -> None:
        """Close all connections at once."""
        for transport in (*self._idle, *self._busy):
            _abort(transport)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        transport = request.transport
        if transport is None:  # the client is gone
            raise asyncio.CancelledError
        self._idle.pop(transport, None)
        self._busy.add(transport)
        try:
            return await self._answer(request)
        finally:
            if transport in self._busy:  # not lost meanwhile
                self._busy.discard(transport)
                self._idle[transport] = _Connection(self._clock())


def _abort(transport: asyncio.BaseTransport) -> None:
    if isinstance(transport, asyncio.Transport):
        transport.abort()
