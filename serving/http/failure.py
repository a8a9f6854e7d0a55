"""Failure: the answer to an HTTP request that went wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from aiohttp import web

from nested_sparse.excerpt import excerpt

from ..fault import HTTP_STATUSES, PUSHBACK_KEY, Ending

SAFE_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Server": "nested-sparse"}
"""Headers of every answer. Server: without versions, which aiohttp and Python would tell to every caller."""
HTTP_2 = ("PRI/Upgrade", "PRI * HTTP/2")
"""Words of aiohttp's parsers about the first line of an HTTP/2 client."""


def failure(ending: Ending) -> web.Response:
    """The answer to a call that ended so."""
    headers: dict[str, str] = {}
    status = HTTP_STATUSES.get(ending.status, 500)
    delay_ms = int(dict(ending.trailers).get(PUSHBACK_KEY, -1))
    if delay_ms >= 0:
        headers["Retry-After"] = str(math.ceil(delay_ms / 1e3))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return error_response(status, ending.message, headers)


def error_response(status: int, message: str, headers: Mapping[str, str]) -> web.Response:
    """An answer with `message` as its JSON body."""
    text = json.dumps({"error": message})
    return web.Response(
        status=status, text=text, content_type="application/json", headers={**SAFE_HEADERS, **dict(headers)}
    )


def no_http(status: int, message: str | None) -> web.Response:
    """The answer to bytes that aiohttp's parser refuses with `message`; the connection closes after it."""
    said = " ".join((message or "").split())
    hint = " It is HTTP/2, as gRPC's clients speak it; gRPC has a port of its own." if _is_http_2(said) else ""
    response = error_response(status, f"The request is no HTTP that can be read here ({excerpt(said)}).{hint}", {})
    response.force_close()
    return response


def _is_http_2(said: str) -> bool:
    return any(words in said for words in HTTP_2)
