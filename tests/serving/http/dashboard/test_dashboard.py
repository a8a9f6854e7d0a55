"""Dashboard: the page in a browser, and the figures behind it."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from browser import CHROMIUM, browsing
from nested_sparse.runtime.resources import Governor, LimitConfig, ResourceMonitor
from nested_sparse.serving.http.dashboard.history import History
from nested_sparse.serving.server import Server, ServerConfig
from nested_sparse.serving.top.counts import Counts, Durations, MetricCounts, ModelCounts

HOSTILE = '<img src=x onerror="document.title=1">'
MIB = 2**20
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}).encode()


@pytest.fixture
def watched(model: Any, serve: Any) -> Iterator[Server]:
    """A server of two models, one with a name to fear; memory is so short that only level 0 of the other may run."""
    monitor = ResourceMonitor((lambda: {"available_memory_bytes": 10.0 * MIB, "usable_cores": 3.0},))
    governor = Governor(monitor, LimitConfig(min_available_memory_bytes=64 * MIB))
    held = SimpleNamespace(name="net", levels=model.levels, resident_level=2, threads=1)
    governor.watch(held, SimpleNamespace(limit=lambda level, reason: None), follows_cores=False)
    governor.look()
    hostile = replace(model, name=HOSTILE)
    with serve([model, hostile], ServerConfig(port=0, http_port=0, grace_s=5), governor=governor) as server:
        yield server


def get(server: Server, path: str) -> tuple[dict[str, str], str]:
    with urllib.request.urlopen(f"http://{server.http_address}{path}", timeout=30) as response:
        return dict(response.headers), response.read().decode()


def infer(server: Server) -> None:
    urllib.request.urlopen(f"http://{server.http_address}/v2/models/net/infer", BODY, timeout=30).close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
def test_the_page_shows_the_server_at_work(watched, tmp_path):
    """In a browser: rates, levels, the limit and its reason, the device; and not one request to elsewhere."""

    async def work() -> None:
        while True:
            await asyncio.to_thread(infer, watched)

    async def look() -> None:
        async with browsing(tmp_path) as page:
            await page.do("Page.navigate", url=f"http://{watched.http_address}/")
            load = asyncio.create_task(work())  # the figures are those of the last second
            card = "document.querySelector('article[data-model=net]')"
            await page.until(f"/2: 100 %/.test({card}?.innerText)")
            load.cancel()
            text = await page.value(f"{card}.innerText")
            assert "SLO\n1000 ms" in text
            assert "Slowdown\n1.25" in text
            assert "Levels above 0 are off: memory: 10 MiB available, 64 wanted" in text
            assert await page.value(f"{card}.querySelectorAll('svg').length") == 4
            assert await page.value(f"{card}.querySelectorAll('rect').length") >= 1
            device = await page.value("document.getElementById('device').innerText")
            assert "Usable cores\n3" in device
            assert "Available memory\n10 MiB" in device
            assert "Temperature" not in device
            assert await page.value("document.images.length") == 0  # a name is text
            assert await page.value("document.querySelectorAll('article h2')[1].textContent") == f"{HOSTILE} · ready"
            assert all(url.startswith((f"http://{watched.http_address}/", "data:,")) for url in page.requested)
            assert page.faults == []

    asyncio.run(look())


def test_the_page_may_load_nothing_from_elsewhere(watched):
    headers, html = get(watched, "/")
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    for path in re.findall(r'(?:src|href)="([^"]+)"', html):
        if path != "data:,":
            assert get(watched, f"/{path}")[1]


def test_points_follow_each_other_and_a_page_may_be_older_than_the_server(watched):
    infer(watched)
    first = json.loads(get(watched, "/dashboard/points")[1])
    assert first["points"] == []
    while not (told := json.loads(get(watched, f"/dashboard/points?after={first['number']}")[1]))["points"]:
        pass
    point = told["points"][0]
    assert (point["number"], point["device"]["usable_cores"]) == (1, 3)
    assert {model["name"]: model["state"] for model in point["models"]} == {"net": "ready", HOSTILE: "ready"}
    assert point not in json.loads(get(watched, "/dashboard/points?after=1")[1])["points"]
    assert json.loads(get(watched, "/dashboard/points?after=999")[1])["points"][0] == point


class GrowingState:
    """Ten more answers at each reading, all at level 1, in 5 to 10 ms."""

    def __init__(self) -> None:
        self.readings = 0

    def counts(self) -> Counts:
        self.readings += 1
        answers = 10 * self.readings
        total = Durations(((0.005, 0), (0.01, answers), (float("inf"), answers)))
        metrics = MetricCounts({"ok": answers}, {1: answers}, total=total, queue_length=2, slowdown=1.5)
        return Counts(float(self.readings), "it", "ready", (ModelCounts("net", "ready", answers, metrics=metrics),))

    def facts(self) -> dict[str, dict[str, Any]]:
        return {"net": {"slo_ms": 50.0}}

    def device(self) -> dict[str, Any]:
        return {"usable_cores": 2}


def test_history_holds_the_rates_of_each_second():
    async def points() -> list[dict[str, Any]]:
        history = History(GrowingState(), period_s=0.01)
        while len(history.since(0)["points"]) < 3:
            await asyncio.sleep(0.01)
        history.close()
        return list(history.since(0)["points"][:3])

    for number, point in enumerate(asyncio.run(points()), 1):
        [model] = point["models"]
        assert point["number"] == number
        assert (model["per_s"], model["in_time_share"], model["level_shares"]) == (10.0, 1.0, {1: 1.0})
        assert model["total_ms"] == pytest.approx((7.5, 9.95))
        assert (model["slo_ms"], model["queue_length"]) == (50.0, 2)
    json.dumps(point, allow_nan=False)


def test_the_device_is_in_the_metrics(watched):
    text = get(watched, "/metrics")[1]
    assert "nested_sparse_usable_cores 3.0" in text
    assert f"nested_sparse_available_memory_bytes {10.0 * MIB}" in text.replace("1.048576e+07", str(10.0 * MIB))
    assert 'nested_sparse_highest_level{model="net"} 0.0' in text
    assert "nested_sparse_temperature_celsius" not in text


def test_numbers_of_points_are_checked(watched):
    for bad in ("-1", "x", "1" * 20):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            get(watched, f"/dashboard/points?after={bad}")
    assert np.isfinite(json.loads(get(watched, "/dashboard/points?after=0")[1])["period_s"])
