"""MetricsText: the text of the metrics, in the form that an HTTP client accepts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app


class MetricsText:
    """Makes the text of `registry`, in one thread at a time beside the event loop that it belongs to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._application: Callable[..., Any] = make_wsgi_app(registry)
        self._collecting = asyncio.Lock()

    async def collect(self, query: str = "", headers: Mapping[str, str] | None = None) -> tuple[dict[str, str], bytes]:
        """The headers and the body of an answer. query: of the address. headers: of the request, in small letters."""
        given = headers or {}
        environment = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/metrics",
            "QUERY_STRING": query,
            "HTTP_ACCEPT": given.get("accept", ""),
            "HTTP_ACCEPT_ENCODING": given.get("accept-encoding", ""),
        }
        answered: list[list[tuple[str, str]]] = []

        def collect() -> bytes:
            return b"".join(self._application(environment, lambda status, headers: answered.append(headers)))

        async with self._collecting:
            body = await asyncio.to_thread(collect)
        return dict(answered[0]), body
