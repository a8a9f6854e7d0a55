"""UnixSocket: the door for processes of the same user, and every reason why it cannot be made."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from click.testing import CliRunner

from nested_sparse.errors import ServingError
from nested_sparse.serving import cli
from nested_sparse.serving.connections.unix_socket import MOST_BYTES, UnixSocket
from nested_sparse.serving.security import SecurityConfig
from nested_sparse.serving.server import ServerConfig
from support import EXAMPLE


def ask(address: str, headers: dict[str, str] | None = None) -> Any:
    """The answer to a request of an unmodified client."""
    with triton.InferenceServerClient(address) as client:
        tensor = triton.InferInput("x", [2, 4], "FP32")
        tensor.set_data_from_numpy(np.ones((2, 4), np.float32))
        return client.infer("net", [tensor], headers=headers).as_numpy("double")


def test_a_client_is_served_on_the_socket_and_on_the_port(tmp_path: Path, model: Any, serve: Any) -> None:
    """The file is its user's alone, and goes with the server."""
    path = tmp_path / "door"
    with serve([model], ServerConfig(port=0, unix_socket=path)) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        np.testing.assert_array_equal(ask(f"unix:{path}"), ask(server.address))
    assert not path.exists()


def test_tokens_are_asked_for_on_the_socket_too(tmp_path: Path, model: Any, serve: Any) -> None:
    path, tokens = tmp_path / "door", tmp_path / "tokens"
    tokens.write_text(f"me inference {'x' * 40}\n")
    config = ServerConfig(port=0, unix_socket=path, security=SecurityConfig(token_file=tokens))
    with serve([model], config):
        with pytest.raises(Exception, match="UNAUTHENTICATED"):
            ask(f"unix:{path}")
        assert ask(f"unix:{path}", {"authorization": f"Bearer {'x' * 40}"}).shape == (2, 4)


def test_the_socket_of_a_dead_process_is_replaced(tmp_path: Path, model: Any, serve: Any) -> None:
    path = tmp_path / "door"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serve([model], ServerConfig(port=0, unix_socket=path)):
        assert ask(f"unix:{path}").shape == (2, 4)


def test_a_living_one_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "door"
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        with pytest.raises(ServingError, match="another process listens there; stop it"):
            UnixSocket(path).check()
    assert path.exists()


def test_of_two_that_start_at_once_one_is_refused(tmp_path: Path) -> None:
    """A socket that is bound and does not listen yet would look as that of a dead process."""
    door = UnixSocket(tmp_path / "door")
    with door.listener(), pytest.raises(ServingError, match="another process listens there"):
        UnixSocket(tmp_path / "door").listener()
    door.close()
    assert not (tmp_path / "door").exists()


def test_the_socket_of_a_later_process_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "door"
    earlier, later = UnixSocket(path), UnixSocket(path)
    with earlier.listener():
        path.unlink()
        with later.listener():
            earlier.close()
            assert path.exists()
            later.close()
    assert not path.exists()


@pytest.mark.parametrize("flag", ["--unix-socket", "--http-unix-socket"])
def test_a_path_is_looked_at_before_the_models_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    """That may take minutes."""
    pytest.importorskip("aiohttp", reason="the extra [http] is not installed")

    def loader_of(*_: Any) -> Any:
        raise AssertionError("the models load")

    monkeypatch.setattr("nested_sparse.serving.settings.parts.loader_of", loader_of)
    done = CliRunner().invoke(cli.app, ["serve", str(EXAMPLE), "--port", "0", flag, str(tmp_path / "absent/door")])
    assert isinstance(done.exception, ServingError)
    assert "expected a folder" in str(done.exception)


def test_another_file_is_not_taken_away(tmp_path: Path) -> None:
    """Nor is a link, wherever it leads."""
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    for name in ("file", "link"):
        with pytest.raises(ServingError, match="another file has this name"):
            UnixSocket(tmp_path / name).check()
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("name", "said"),
    [("x" * MOST_BYTES, f"at most {MOST_BYTES} bytes"), ("absent/door", "expected a folder"), ("..", "another file")],
)
def test_a_path_that_cannot_be_one(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ServingError, match=said):
        UnixSocket(tmp_path / name).open(grpc.aio.server)


def test_the_process_makes_its_other_files_as_before(tmp_path: Path, model: Any, serve: Any) -> None:
    """The mask of file modes is that of the process."""
    mask = os.umask(0o022)
    try:
        with serve([model], ServerConfig(port=0, unix_socket=tmp_path / "door")):
            (tmp_path / "file").touch()
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644
    finally:
        os.umask(mask)
