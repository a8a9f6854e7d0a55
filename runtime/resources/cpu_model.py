"""cpu_model: the processor, as the system names it."""

from __future__ import annotations

import platform
from pathlib import Path

from .probes import ROOT


def cpu_model(root: Path = ROOT) -> str:
    """The name of the processor, or the part numbers that Arm kernels print in its place.

    A processor with several kinds of core has several names: each once, in the order of the cores, with ", " between.
    root: folder below which proc/cpuinfo is read.
    """
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    fields = [(name.strip(), value.strip()) for name, colon, value in (line.partition(":") for line in lines) if colon]
    named = [value for name, value in fields if name in ("model name", "CPU part", "Model")]
    return ", ".join(dict.fromkeys(named)) or platform.processor() or platform.machine()
