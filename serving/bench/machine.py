"""Machine: the processor and the packages that a benchmark's figures depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
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


def machine_facts() -> dict[str, Any]:
    """The machine and the versions, as every benchmark's JSON line names them."""
    return {"machine": platform.machine(), "cpu": cpu_model(), "versions": versions()}
