"""Failure: answers to bytes that are no HTTP, and the headers of every answer."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from nested_sparse.serving.served_model import ServedModel
from nested_sparse.serving.server import Server, ServerConfig


@pytest.fixture
def rest(model: ServedModel, serve: Any) -> Iterator[Server]:
    """A server with a REST port and a model."""
    with serve([model], ServerConfig(port=0, http_port=0, grace_s=5)) as server:
        yield server


def headers_of(server: Server, path: str) -> dict[str, str]:
    try:
        with urllib.request.urlopen(f"http://{server.http_address}{path}", timeout=30) as response:
            return dict(response.headers)
    except urllib.error.HTTPError as error:
        return dict(error.headers)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v2 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
    ],
    ids=["two lengths", "TLS", "no header", "a long header"],
)
def test_no_http_is_answered_as_every_error(rest, head):
    """In JSON, with the headers of all answers, and the connection closes."""
    host, _, port = rest.http_address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    status, _, rest_of_it = answer.partition(b"\r\n")
    headers, _, body = rest_of_it.partition(b"\r\n\r\n")
    assert status.split()[1] == b"400"
    assert json.loads(body)["error"].startswith("The request is no HTTP that can be read here (")
    assert b"Content-Type: application/json" in headers
    assert b"X-Content-Type-Options: nosniff" in headers


def test_a_grpc_client_is_told_that_it_called_the_wrong_port(rest):
    host, _, port = rest.http_address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert "gRPC has a port of its own" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def test_no_answer_tells_versions(rest):
    """Neither that of Python nor that of the HTTP library."""
    for path in ("/v2", "/nothing", "/metrics", "/"):
        assert headers_of(rest, path)["Server"] == "nested-sparse"
