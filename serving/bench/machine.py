"""Machine: the processor and the packages that a benchmark's figures depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nested_sparse.runtime.resources import cpu_model

PACKAGES = ("nested-sparse", "onnxruntime", "numpy", "torch", "onnx", "grpcio", "tritonclient")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that the figures depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def int8_instructions() -> list[str]:
    """The processor's instructions that multiply and add int8, as Linux calls them; [] where it does not tell."""
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return []
    return [name for name in ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm") if name in words]


def machine_facts() -> dict[str, Any]:
    """The machine and the versions, as every benchmark's JSON line names them."""
    return {
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "int8_instructions": int8_instructions(),
        "versions": versions(),
    }
