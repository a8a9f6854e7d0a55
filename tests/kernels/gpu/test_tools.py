"""GPU tools: the kernels compile for an H100 without one, and the check of a GPU machine does all of its steps here."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpu_case import DEVICE
from support import ROOT

PYTHON = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable}


def printed(*command: str, **more: str) -> str:
    """The output of a command in the repository's root."""
    done = subprocess.run(command, cwd=ROOT, env={**PYTHON, **more}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(platform.machine() != "x86_64", reason="Triton's assembler for NVIDIA is an x86 program")
def test_kernels_compile_for_hopper_without_a_gpu(tmp_path: Path) -> None:
    """Its tensor-core instructions, loads of 16 bytes, no registers in memory; no level or batch compiles anew.

    The interpreter takes much that the compiler refuses. `slow` compiles every tile.
    """
    assert_compiled(printed(sys.executable, "tools/gpu_compile.py", "--few", TRITON_CACHE_DIR=str(tmp_path)))


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="Triton's assembler for NVIDIA is an x86 program")
def test_every_tile_compiles(tmp_path: Path) -> None:
    """Every V, tile, epilogue's kind and type that `gpu_compile.py` has."""
    assert_compiled(printed(sys.executable, "tools/gpu_compile.py", TRITON_CACHE_DIR=str(tmp_path)))


def assert_compiled(lines: str) -> None:
    """Check the report."""
    *kernels, last = map(json.loads, lines.splitlines())
    assert {kernel["op"] for kernel in kernels} >= {"linear", "conv 3x3"}
    for kernel in kernels:
        assert kernel["stack"] == 0, kernel
        assert all(name.startswith("wgmma") for name in kernel["products"]), kernel
        assert kernel["products"], kernel
        if kernel["op"] == "linear":
            assert kernel["copies_bytes"] == [16], kernel
    assert last == {"kernels": 1}


@pytest.mark.skipif(DEVICE == "cuda", reason="on a GPU the table is no test, but minutes long")
def test_the_table_is_computed_and_nothing_is_measured_without_a_gpu(tmp_path: Path) -> None:
    """All contenders but 2:4, which needs a GPU, are right; no time is stated."""
    lines = printed(sys.executable, "tools/gpu_table.py", "--out", str(tmp_path))
    assert lines == (tmp_path / "gpu_table.jsonl").read_text()
    rows: list[Any] = [row for row in map(json.loads, lines.splitlines()) if "errors" in row]
    assert len(rows) == 5 * (3 + 1) + 3
    for row in rows:
        assert set(row["ms"].values()) == {None}
        assert "ours" in row["ms"], row
        assert [name for name, error in row["errors"].items() if not isinstance(error, float)] in ([], ["2:4"])
        assert isinstance(row["errors"]["ours"], float)


def test_the_check_names_its_wheels_and_refuses_a_machine_without_a_gpu(tmp_path: Path) -> None:
    """The wheels are those of constraints.txt; torch and Triton come with the machine."""
    wheels = printed("tools/gpu_check.sh", "--wheels").split()
    pins = (ROOT / "constraints.txt").read_text()
    assert {"numpy", "pytest", "hypothesis"} <= {wheel.partition("==")[0] for wheel in wheels}
    assert all(wheel in pins for wheel in wheels)
    if DEVICE == "cpu":
        done = subprocess.run(
            ["tools/gpu_check.sh"], cwd=ROOT, env={**PYTHON, "OUT": str(tmp_path)}, capture_output=True, text=True
        )
        assert (done.returncode, "no CUDA device" in done.stderr) == (1, True)
    wrong = subprocess.run(["tools/gpu_check.sh", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert (wrong.returncode, "--wheels" in wrong.stderr) == (2, True)
