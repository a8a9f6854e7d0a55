"""The machine and the packages that a benchmark's figures depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("nested-sparse", "onnxruntime", "numpy", "torch", "onnx", "grpcio", "tritonclient")


def versions() -> dict[str, str]:
    """Of Python and the packages that the figures depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
