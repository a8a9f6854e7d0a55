"""Memory: the resident bytes of a server's process, at rest and under load."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil

from ..serving.figure import Figure
from ..serving.raw_client import call_together
from ..serving.server_process import running_server

REST_S = 1.0
CALLERS = 8
"""More than a device's cores: requests wait, and are joined to batches."""
SAMPLE_S = 0.02


def memory_figures(checkpoint: Path, seconds: float = 5.0) -> list[Figure]:
    """Resident set at rest, a second after the server was ready, and its peak while callers call for `seconds`.

    The resident set counts the pages of libraries and of the checkpoint that are in memory, which other processes may
    share; the note has what is the process's own. The peak is of samples, 50 in a second.
    """
    with running_server(checkpoint, ["--profile-cache", "off"]) as server:
        process = psutil.Process(server.pid)
        time.sleep(REST_S)
        rest_bytes, own_bytes = process.memory_info().rss, process.memory_full_info().uss
        samples = [rest_bytes]
        over = threading.Event()

        def sample() -> None:
            while not over.wait(SAMPLE_S):
                samples.append(process.memory_info().rss)

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        try:
            calls = call_together(server.address, checkpoint.stem, seconds, callers=CALLERS)
        finally:
            over.set()
            sampler.join()
        own_under_load_bytes = process.memory_full_info().uss
    answered = sum(call.status == "OK" for call in calls)
    size = f"{checkpoint.name}, {checkpoint.stat().st_size / 1e6:.1f} MB"
    return [
        Figure("memory at rest", "MB", None, _mb(rest_bytes), f"{size}; {_mb(own_bytes)} of it its own"),
        Figure(
            "memory under load, peak",
            "MB",
            None,
            _mb(max(samples)),
            f"{CALLERS} callers, {seconds:g} s, {answered} answers; {_mb(own_under_load_bytes)} its own after them",
            details={"samples": len(samples), "answered": answered, "calls": len(calls)},
        ),
    ]


def _mb(nbytes: int) -> float:
    return round(nbytes / 1e6, 1)
