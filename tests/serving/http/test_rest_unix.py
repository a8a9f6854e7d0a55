"""REST over a unix socket: the answers of the port, for processes of the same user."""

from __future__ import annotations

import http.client
import json
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from nested_sparse.errors import ServingError
from nested_sparse.serving.security import SecurityConfig
from nested_sparse.serving.server import ServerConfig
from nested_sparse.serving.settings.check import checked
from nested_sparse.serving.settings.settings import read_settings

pytest.importorskip("aiohttp", reason="the extra [http] is not installed")

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]})
TOKEN = "x" * 40


class UnixConnection(http.client.HTTPConnection):
    """Python's own client, over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(connection: http.client.HTTPConnection, path: str, body: str | None = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON of one answer."""
    connection.request("GET" if body is None else "POST", path, body, headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


@pytest.mark.parametrize("port", [None, 0], ids=["alone", "beside a port"])
def test_the_answers_are_those_of_the_port(tmp_path: Path, model: Any, serve: Any, port: int | None) -> None:
    """The file is its user's alone, and goes with the server. A second request takes the same connection."""
    path = tmp_path / "rest"
    with serve([model], ServerConfig(port=0, http_port=port, http_unix_socket=path, grace_s=5)) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert server.http_unix_address == f"unix:{path}"
        assert bool(server.http_address) == (port is not None)
        there = UnixConnection(path)
        status, answer = ask(there, "/v2/models/net/infer", BODY)
        assert status == 200
        assert {each["name"]: each["data"] for each in answer["outputs"]} == {"sum": [10], "double": [2, 4, 6, 8]}
        assert "binary_tensor_data" in ask(there, "/v2")[1]["extensions"]
        if port is not None:
            assert ask(http.client.HTTPConnection(server.http_address), "/v2") == ask(there, "/v2")
    assert not path.exists()


def test_clients_of_both_sockets_have_one_name(tmp_path: Path, model: Any, serve: Any) -> None:
    """So that one process has one share of the queue, whichever it takes."""
    grpc_client = pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] is not installed")
    config = ServerConfig(port=0, unix_socket=tmp_path / "grpc", http_unix_socket=tmp_path / "rest")
    with serve([model], config) as server:
        assert ask(UnixConnection(tmp_path / "rest"), "/v2/models/net/infer", BODY)[0] == 200
        with grpc_client.InferenceServerClient(server.unix_address) as client:
            tensor = grpc_client.InferInput("x", [1, 4], "FP32")
            tensor._raw_content = bytes(16)
            client.infer("net", [tensor])
        names = [request.client for request in model.engine.requests]
    assert len(names) == 2
    assert len(set(names)) == 1


def test_tokens_are_asked_for_and_other_sites_refused(tmp_path: Path, model: Any, serve: Any) -> None:
    path, tokens = tmp_path / "rest", tmp_path / "tokens"
    tokens.write_text(f"me inference {TOKEN}\n")
    config = ServerConfig(port=0, http_unix_socket=path, security=SecurityConfig(token_file=tokens))
    with serve([model], config):
        there = UnixConnection(path)
        assert ask(there, "/v2/models/net/infer", BODY)[0] == 401
        assert ask(there, "/v2/models/net/infer", BODY, Authorization=f"Bearer {TOKEN}")[0] == 200
        assert ask(there, "/v2/health/live", Origin="http://elsewhere")[0] == 403


def test_a_path_that_cannot_be_one(tmp_path: Path, model: Any, serve: Any) -> None:
    (tmp_path / "file").write_text("kept")
    with (
        pytest.raises(ServingError, match="another file has this name"),
        serve([model], ServerConfig(port=0, http_unix_socket=tmp_path / "file")),
    ):
        pass
    assert (tmp_path / "file").read_text() == "kept"
    settings = read_settings(None, {"models": {"files": [tmp_path / "a"]}, "address": {"http_unix_socket": "x" * 200}})
    assert any("at most 107 bytes" in each for each in checked(settings).problems)


def test_one_path_cannot_be_both_sockets(tmp_path: Path) -> None:
    address = {"unix_socket": tmp_path / "door", "http_unix_socket": tmp_path / "door"}
    with pytest.raises(Exception, match="http_unix_socket: is that of --unix-socket"):
        read_settings(None, {"models": {"files": [tmp_path / "a"]}, "address": address})
