"""ServerProcess: a process of `nested-sparse serve`, the server under test."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nested_sparse.errors import ServingError
from nested_sparse.excerpt import excerpt


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """address: HOST:PORT of its gRPC; pid: id of the process."""

    address: str
    pid: int


@contextlib.contextmanager
def running_server(checkpoint: Path, arguments: Sequence[str]) -> Iterator[ServerProcess]:
    """A `nested-sparse serve` process on a free port, ended with the context. Raises ServingError where it fails."""
    command = [
        sys.executable,
        "-m",
        "nested_sparse.serving.cli",
        "serve",
        str(checkpoint),
        "--port",
        "0",
        "--json",
        *arguments,
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", errors="replace"
    )
    log: list[str] = []
    assert process.stdout is not None
    assert process.stderr is not None
    stderr = process.stderr
    reader = threading.Thread(target=lambda: log.extend(stderr), daemon=True)
    reader.start()
    try:
        line = process.stdout.readline()
        if not line:
            process.wait()
            reader.join(timeout=1.0)
            raise ServingError(
                f"the server did not start: {excerpt(log[-1].strip(), 1000) if log else 'it printed no error'}"
            )
        yield ServerProcess(str(json.loads(line)["address"]), process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        reader.join(timeout=1.0)
        stderr.close()
