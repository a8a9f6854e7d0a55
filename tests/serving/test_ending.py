"""Early end: a server that is stopped before it is ready, also as a container's first process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from support import EXAMPLE

SERVE = (sys.executable, "-m", "nested_sparse.serving", "serve", str(EXAMPLE), "--port", "0", "--threads", "1")
FIRST = """
import json, runpy, signal, sys

seen, handle = [], signal.signal

def spy(number, handler):
    heavy = ("numpy", "onnxruntime", "grpc", "click", "asyncio")
    seen.append((number, [name for name in heavy if name in sys.modules]))
    return handle(number, handler)

signal.signal = spy
sys.argv = ["nested-sparse", "serve", "--help"]
try:
    runpy.run_module("nested_sparse.serving", run_name="__main__")
except SystemExit:
    print(json.dumps(seen))
"""


def test_handlers_come_before_everything_else():
    """Handlers of both signals are set before any slow import."""
    done = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout.splitlines()[-1]) == [[int(signal.SIGTERM), []], [int(signal.SIGINT), []]]


def test_the_console_script_begins_there():
    """Installed scripts and `python -m` are one."""
    script = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'nested-sparse = "nested_sparse.serving.__main__:main"' in script


def catches_sigterm(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(mask >> (signal.SIGTERM - 1) & 1)


def can_be_process_one() -> bool:
    unshare = shutil.which("unshare")
    command = [unshare or "", "--pid", "--fork", sys.executable, "-c", "import os; raise SystemExit(os.getpid() != 1)"]
    return unshare is not None and subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def test_process_one_stops_while_it_loads():
    """It stops as soon as it has a handler, with the code of the signal."""
    if not can_be_process_one():
        pytest.skip("no new process namespace may be made here (unshare --pid)")
    command = ["unshare", "--pid", "--fork", *SERVE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as outer:
        try:
            end_s = time.monotonic() + 60
            inner = None
            while inner is None and time.monotonic() < end_s:
                inner = next(iter(psutil.Process(outer.pid).children()), None)
            assert inner is not None
            while not catches_sigterm(inner.pid) and time.monotonic() < end_s:
                time.sleep(0.002)
            os.kill(inner.pid, signal.SIGTERM)
            _, log = outer.communicate(timeout=60)
        finally:
            outer.kill()
    assert outer.returncode == 128 + signal.SIGTERM, log
    assert "stopped by SIGTERM before the models were ready" in log
    assert "serving" not in log
