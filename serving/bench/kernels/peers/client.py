"""PeerProcess: the worker process of a peer, which runs when its turn comes."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import BenchError
from nested_sparse.excerpt import excerpt

WORKER = Path(__file__).with_name("worker.py")
LOAD_TIMEOUT_S = 300.0
RUN_TIMEOUT_S = 120.0


class PeerProcess:
    """One model, loaded in one peer. Every method raises BenchError, with the peer's own error, where it fails.

    command: starts the worker; worker.py describes the protocol. name: of the peer, with its version after load().
    """

    def __init__(self, peer: str, command: list[str], threads: int) -> None:
        self.name = peer
        self._threads = threads
        # a peer that spins, or sends usage data, between its turns would disturb the others
        quiet = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "NM_DISABLE_ANALYTICS": "1"}
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env={**os.environ, **quiet})
        except OSError as error:
            raise BenchError(f"{peer}: {command[0]} could not be started: {error}") from None
        self._pending = b""
        self._log: deque[str] = deque(maxlen=5)
        self._reader = threading.Thread(target=self._keep_log, daemon=True)
        self._reader.start()

    def load(self, model: Path, image: Path, calibration: Path) -> None:
        """Make the peer load an ONNX file and the input, a .npy file; `calibration`: more inputs, a .npy file too."""
        request = {"do": "load", "model": str(model), "threads": self._threads, "input": str(image)}
        request["calibration"] = str(calibration)
        self.name = str(self._ask(request, LOAD_TIMEOUT_S)["peer"])

    def output(self) -> NDArray[np.float32]:
        """The peer's output for the input."""
        answer = self._ask({"do": "run", "count": 1}, RUN_TIMEOUT_S)
        return np.array(answer["output"], np.float32).reshape(answer["shape"])

    def run(self) -> float:
        """Milliseconds of one inference by the worker's clock, so without the pipe to this process."""
        return float(self._ask({"do": "run", "count": 1}, RUN_TIMEOUT_S)["samples_ms"][0])

    def close(self) -> None:
        """End the worker."""
        process = self._process
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._reader.join(timeout=1.0)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise BenchError(self._ended()) from None
        line = self._line(timeout_s)
        try:
            answer = json.loads(line)
        except ValueError:
            raise BenchError(f"{self.name}: answered {line[:80]!r}, expected one JSON object") from None
        if "error" in answer:
            raise BenchError(f"{self.name}: {excerpt(answer['error'], 500)}")
        return dict(answer)

    def _line(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(timeout_s):
                    self._process.kill()
                    raise BenchError(f"{self.name}: did not answer within {timeout_s:g} s")
                piece = os.read(self._process.stdout.fileno(), 1 << 20)
                if not piece:
                    raise BenchError(self._ended())
                self._pending += piece
        line, self._pending = self._pending.split(b"\n", 1)
        return line

    def _ended(self) -> str:
        code = self._process.wait()
        self._reader.join(timeout=1.0)
        return f"{self.name}: its worker ended with code {code}: {' '.join(self._log).strip() or 'it printed no error'}"

    def _keep_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._log.append(line.decode(errors="replace").strip())
