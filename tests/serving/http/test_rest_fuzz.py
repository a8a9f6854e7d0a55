"""REST, fuzzed: nearly right requests of every route end in a clear status, and the server goes on."""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from nested_sparse.serving.http.infer_body import HEADER_LENGTH
from nested_sparse.serving.http.routes import ROUTES
from nested_sparse.serving.server import Server, ServerConfig

RIGHT = {
    "id": "1",
    "parameters": {"slo_ms": 500.0, "level": 1, "priority": 1, "timeout": 100000, "binary_data_output": True},
    "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {}, "data": [[1, 2.5, -3, 4e3]]}],
    "outputs": [
        {"name": "sum", "parameters": {"classification": 1}},
        {"name": "double", "parameters": {"binary_data": False}},
    ],
}
ODD = (
    None, True, 0, -1, 2**31, 2**63, 2**64, 1e308, float("nan"), float("inf"), "", "x", "\0", "é" * 300, "\ud800", [],
    {}, [[]], [{}], {"a": 1}, {"b": {"c": []}}, [1, "a"], "FP32", "BYTES", "BF16", ["a"], "x" * 5000,
)  # fmt: skip
KEYS = (
    "data", "shape", "datatype", "parameters", "inputs", "outputs", "name", "id", "binary_data_size", "binary_data",
    "classification", "shared_memory_region", "shared_memory_byte_size", "sequence_id", "settings", "key", "byte_size",
    "ready", "trace_level", "log_verbose_level", "unload_dependents", "raw_handle",
)  # fmt: skip
INFER = [route for route in ROUTES if route.rpc == "ModelInfer"]
CLEAR = {200, 400, 401, 403, 404, 405, 409, 413, 429, 501, 503, 504}


@pytest.fixture
def rest(model: Any, serve: Any) -> Iterator[Server]:
    with serve([model], ServerConfig(port=0, http_port=0, grace_s=5, allow_shared_memory=True)) as server:
        yield server


def changed(value: Any, drawn: random.Random) -> Any:
    """`value` with one place of it replaced, removed, doubled, or given another key."""
    if isinstance(value, dict) and value and drawn.random() < 0.8:
        key = drawn.choice(list(value))
        return {**value, key: changed(value[key], drawn)}
    if isinstance(value, list) and value and drawn.random() < 0.8:
        at = drawn.randrange(len(value))
        return [*value[:at], changed(value[at], drawn), *value[at + 1 :]]
    kind = drawn.randrange(4)
    if kind == 0 and isinstance(value, dict):
        return {**value, drawn.choice(KEYS): drawn.choice(ODD)}
    if kind == 1 and isinstance(value, list):
        return value * 2 if drawn.random() < 0.5 else value[1:]
    return drawn.choice(ODD)


def mangled(data: bytes, drawn: random.Random) -> bytes:
    """`data` with a few bytes changed, cut out, or put in."""
    mangled = bytearray(data)
    for _ in range(drawn.randrange(1, 4)):
        at = drawn.randrange(len(mangled) + 1)
        mangled[at : at + drawn.randrange(3)] = drawn.randbytes(drawn.randrange(3))
    return bytes(mangled)


def body_and_headers(drawn: random.Random) -> tuple[bytes, dict[str, str]]:
    value: Any = RIGHT
    for _ in range(drawn.randrange(4)):
        value = changed(value, drawn)
    data = json.dumps(value).encode()
    headers: dict[str, str] = {}
    if drawn.random() < 0.3:
        data = mangled(data, drawn)
    if drawn.random() < 0.3:
        headers[HEADER_LENGTH] = str(drawn.choice((0, 1, len(data), len(data) + 1, len(data) - 16, -1, 10**30)))
        data += drawn.randbytes(drawn.choice((0, 16)))
    if drawn.random() < 0.1:
        headers["Content-Encoding"] = drawn.choice(("gzip", "deflate", "br", "identity"))
    return data, headers


def fuzz(server: Server, requests: int) -> None:
    host, port = server.http_address.split(":")
    seen: dict[int, int] = {}
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    for seed in range(requests):
        drawn = random.Random(seed)
        route = (
            drawn.choice(ROUTES) if drawn.random() < 0.5 else next(each for each in ROUTES if each.rpc == "ModelInfer")
        )
        name = drawn.choice(("net", "net", "net", "other", "%00", "%2e%2e", "a" * 300, "%ff", "%ed%a0%80"))
        path = "/" + route.path.format(
            name=name, model_name=name, version="1", model_version=drawn.choice(("1", "2", "x"))
        )
        body, headers = body_and_headers(drawn)
        connection.request(route.method, path, body if route.method == "POST" else None, headers)
        with connection.getresponse() as response:
            answer = response.read()
        assert response.status in CLEAR, (seed, path, body[:300], answer[:300])
        if response.status != 200 and answer[:1] == b"{":
            assert "ready" in json.loads(answer) or json.loads(answer)["error"], (seed, answer)
        seen[response.status] = seen.get(response.status, 0) + 1
    connection.close()
    assert {200, 400, 404} <= set(seen), seen


def test_nearly_right_requests_end_in_a_clear_status(rest, caplog):
    fuzz(rest, 1500)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.slow
def test_many_nearly_right_requests(rest, caplog):
    fuzz(rest, 100_000)
    assert not [record for record in caplog.records if record.exc_info]
