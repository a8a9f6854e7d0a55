"""Rights over REST: the same table as for gRPC, for every route, the metrics and the dashboard's figures."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import CHROMIUM, browsing
from nested_sparse.proto import messages
from nested_sparse.serving.http.routes import ROUTES, Route
from nested_sparse.serving.rights.right import Right, right_of
from nested_sparse.serving.security import SecurityConfig
from nested_sparse.serving.server import Server, ServerConfig

TOKENS = {right: f"{right.value}-0123456789abcdef" for right in Right}
FIGURES = ("/metrics", "/dashboard/points")


@pytest.fixture
def closed(model: Any, serve: Any, tmp_path: Path) -> Iterator[Server]:
    """A server that takes tokens."""
    lines = [f"{right.value}-client {right.value} {token}" for right, token in TOKENS.items()]
    (tmp_path / "tokens").write_text("\n".join(lines), encoding="utf-8")
    security = SecurityConfig(token_file=tmp_path / "tokens")
    with serve([model], ServerConfig(port=0, http_port=0, grace_s=5, security=security)) as server:
        yield server


def status(server: Server, method: str, path: str, token: str | None = None) -> tuple[int, dict[str, str]]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    body = b"{}" if method == "POST" else None
    request = urllib.request.Request(f"http://{server.http_address}{path}", body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, dict(response.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_takes_the_right_of_its_rpc(closed, route: Route):
    path = "/" + route.path.format(name="net", model_name="net", version="1", model_version="1")
    needed = right_of(f"/{messages.SERVICE_NAME}/{route.rpc}")
    if needed is None:
        assert status(closed, route.method, path)[0] not in (401, 403)
        return
    code, headers = status(closed, route.method, path)
    assert (code, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert status(closed, route.method, path, "unknown-0123456789abcdef")[0] == 401
    for right, token in TOKENS.items():
        assert (status(closed, route.method, path, token)[0] in (401, 403)) == (right is not needed)


@pytest.mark.parametrize("path", FIGURES)
def test_figures_take_the_right_of_reading(closed, path):
    assert status(closed, "GET", path)[0] == 401
    assert status(closed, "GET", path, TOKENS[Right.INFERENCE])[0] == 403
    assert status(closed, "GET", path, TOKENS[Right.READING])[0] == 200
    assert status(closed, "GET", "/")[0] == 200  # the page itself holds no figures


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
def test_the_page_asks_for_a_token(closed, tmp_path):
    async def look() -> None:
        async with browsing(tmp_path / "browser") as page:
            await page.do("Page.navigate", url=f"http://{closed.http_address}/")
            await page.until("document.getElementById('login') && !document.getElementById('login').hidden")
            assert await page.value("document.querySelectorAll('article').length") == 0
            await page.value(f"document.getElementById('token').value = {json.dumps(TOKENS[Right.READING])}")
            await page.value("document.querySelector('#login button').click()")
            await page.until("document.querySelectorAll('article').length == 1")
            assert await page.value("document.getElementById('login').hidden")
            assert not await page.value("location.href.includes('token')")

    asyncio.run(look())
