"""The demo's other processes: the server under test, and co-runners that burn every core."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from nested_sparse.errors import ServingError

BURN = """
import os, time
end, parent = time.monotonic() + 600, os.getppid()
while time.monotonic() < end and os.getppid() == parent:
    pass
"""
"""Burns until it is killed, its parent is gone, or ten minutes have passed."""


@contextlib.contextmanager
def running_server(checkpoint: Path, arguments: Sequence[str]) -> Iterator[str]:
    """A `nested-sparse serve` process on a free port; yields its address. Raises ServingError where it fails."""
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
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
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
            raise ServingError(f"the server did not start: {''.join(log[-5:]).strip() or 'it said nothing'}")
        yield str(json.loads(line)["address"])
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


class CoRunner:
    """One busy process for each core, asleep until `start()`: made ahead, so that starting costs the loop nothing."""

    def __init__(self, count: int | None = None) -> None:
        self._processes = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(count or os.cpu_count() or 1)]
        for process in self._processes:
            process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> CoRunner:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def start(self) -> None:
        """Let them burn."""
        for process in self._processes:
            process.send_signal(signal.SIGCONT)
