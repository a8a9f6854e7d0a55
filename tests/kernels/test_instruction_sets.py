"""Instruction sets: the tests that reach all parts of kernels, by each set that this machine has beside its default."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nested_sparse.kernels import library
from nested_sparse.value_type import FLOAT32, INT8, ValueType

FILES = {
    FLOAT32: (
        "test_tiled.py",
        "test_conv.py",
        "test_conv_transpose.py",
        "test_linear.py",
        "test_norm.py",
        "test_recurrent.py",
        "test_volumes.py",
    ),
    INT8: ("test_quantized_conv.py", "test_quantized_linear.py", "test_quantized_ops.py", "test_quantized_volumes.py"),
}
"""Files whose tests marked `every_isa` run kernels of a value type."""


def others(value_type: ValueType) -> set[str]:
    """Instruction sets of this machine that have kernels of `value_type`, without the one that is chosen by itself."""
    kernels = (kernel for kernel in library.kernels() if kernel.supported and kernel.value_type is value_type)
    return {kernel.isa for kernel in kernels} - {library.isa(value_type)}


@pytest.mark.skipif("NESTED_SPARSE_FORCE_ISA" in os.environ, reason="the process that forces no ISA runs the others")
@pytest.mark.parametrize("isa", sorted(others(FLOAT32) | others(INT8)))
def test_every_instruction_set(isa: str) -> None:
    """One process for all files, as each start costs seconds."""
    names = [name for value_type, names in FILES.items() if isa in others(value_type) for name in names]
    files = [str(Path(__file__).with_name(name)) for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "every_isa", *files]
    environment = {**os.environ, "NESTED_SPARSE_FORCE_ISA": isa}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
