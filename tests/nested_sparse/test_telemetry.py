"""Telemetry: off in ONNX Runtime in all our processes, unless the user has set its variable."""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chain import counting_chain

VARIABLE = "ORT_DISABLE_TELEMETRY"
OPEN = "from nested_sparse.runtime import Session; Session({!r})"
ENTRIES = {
    "library": OPEN,
    "command line": "import sys; from nested_sparse.serving.cli import main; sys.argv = ['x', 'profile', {!r}]; main()",
    "kernels first": "from nested_sparse.kernels import library; import onnxruntime; print({!r})",
    "bench": "import nested_sparse.serving.bench.kernels.peers.integer_form, onnxruntime; print({!r})",
    "trainer": "import nested_sparse.trainer, onnxruntime; print({!r})",
}
LISTEN_S = 120.0
"""ONNX Runtime 1.32 first connects 9 to 15 s after its import on two idle cores."""


def environment(home: Path, **extra: str) -> dict[str, str]:
    """This process's, with an empty home and without the variable."""
    kept = {name: value for name, value in os.environ.items() if name != VARIABLE and "PROXY" not in name.upper()}
    return {**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), **extra}


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_database_is_written(entry: str, tmp_path: Path) -> None:
    """ONNX Runtime's telemetry begins with a device id and a database in the cache directory."""
    counting_chain(tmp_path / "m.safetensors", 2, 8)
    home = tmp_path / "home"
    home.mkdir()
    code = ENTRIES[entry].format(str(tmp_path / "m.safetensors"))
    done = subprocess.run([sys.executable, "-c", code], env=environment(home), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in home.rglob("*") if "onnxruntime" in path.name or path.name == "deviceid"] == []


@pytest.mark.parametrize("value", ["0", "", "1"])
def test_a_user_who_has_set_the_variable_is_respected(value: str, tmp_path: Path) -> None:
    """The user's value of the variable stays, for every value."""
    code = f"import nested_sparse, os; print(repr(os.environ[{VARIABLE!r}]))"
    settings = environment(tmp_path, **{VARIABLE: value})
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == repr(value)
    assert done.stderr == ""


def test_subprocesses_inherit_it(tmp_path: Path) -> None:
    """Python's os.environ reaches the C library, and processes of other programs, as in a benchmark's venvs."""
    code = f"import nested_sparse, subprocess; subprocess.run(['printenv', {VARIABLE!r}])"
    run = subprocess.run([sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True)
    assert run.stdout.strip() == "1"


def test_a_log_line_tells_that_onnxruntime_was_imported_before(tmp_path: Path) -> None:
    """The setting then comes too late."""
    code = "import sys; sys.modules['onnxruntime'] = sys; import nested_sparse; import nested_sparse.level"
    run = subprocess.run([sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True)
    assert run.stderr.count("onnxruntime was imported before nested_sparse") == 1


class Listener:
    """A proxy that notes what is asked of it and answers nothing."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.requests: list[bytes] = []
        self._ready = selectors.DefaultSelector()
        self._ready.register(self.socket, selectors.EVENT_READ)

    def listen(self, until_s: float) -> None:
        """Until the first request, or `until_s` by the monotonic clock."""
        while not self.requests and (left_s := until_s - time.monotonic()) > 0:
            for _ in self._ready.select(left_s):
                client, _ = self.socket.accept()
                with client:
                    client.settimeout(10.0)
                    self.requests.append(client.recv(200))


@contextmanager
def open_session(path: Path, home: Path, listener: Listener, **extra: str) -> Iterator[None]:
    """A process with an open session whose only way out is the listener."""
    home.mkdir()
    proxy = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    names = [name for each in ("http_proxy", "https_proxy", "all_proxy") for name in (each, each.upper())]
    settings = environment(home, **dict.fromkeys(names, proxy), **extra)
    code = OPEN.format(str(path)) + "; import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], env=settings, stdin=subprocess.PIPE) as process:
        yield
        process.communicate()


@pytest.mark.slow
def test_telemetry_is_sent_only_where_the_user_switched_it_on(tmp_path: Path) -> None:
    """A process whose user switched it on connects; one beside it that is as it comes has not, twice as late."""
    counting_chain(tmp_path / "m.safetensors", 2, 8)
    silent, telling = Listener(), Listener()
    path, begun_s = tmp_path / "m.safetensors", time.monotonic()
    with (
        open_session(path, tmp_path / "silent", silent),
        open_session(path, tmp_path / "telling", telling, **{VARIABLE: "0"}),
    ):
        telling.listen(begun_s + LISTEN_S)
        if not telling.requests:
            pytest.skip(f"this ONNX Runtime sends nothing within {LISTEN_S} s even where it may")
        silent.listen(time.monotonic() + 2 * (time.monotonic() - begun_s))
    assert telling.requests[0].startswith(b"CONNECT ")
    assert silent.requests == []
