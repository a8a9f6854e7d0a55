"""Start: the time from the start of the process until the server is ready, with its profile kept."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from ..reach import Reach
from ..serving.figure import Figure
from ..serving.server_process import running_server


def start_figure(checkpoint: Path, times: int = 5) -> Figure:
    """The median of `times` starts that follow a first one, which measures the levels and keeps the profile."""
    taken_s = []
    with tempfile.TemporaryDirectory(prefix="nested-sparse-") as folder:
        for _ in range(1 + times):
            begun_s = time.perf_counter()
            with running_server(checkpoint, ["--profile-cache", folder]):
                taken_s.append(round(time.perf_counter() - begun_s, 3))
    size_mb = checkpoint.stat().st_size / 1e6
    return Figure(
        "start to ready, profile kept",
        "s",
        Reach("<=", 1.0),
        statistics.median(taken_s[1:]),
        f"{checkpoint.name}, {size_mb:.1f} MB, median of {times}; {taken_s[0]:.2f} s at first, without a kept profile",
        details={"taken_s": taken_s},
    )
