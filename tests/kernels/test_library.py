"""Library: its discovery and registration from Python, and each instruction set in a separate process."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nested_sparse.errors import KernelError
from nested_sparse.kernels import library, structs
from nested_sparse.value_type import INT8

PATHS = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]

COMPARE = """
import numpy as np
from sparse_node import ACTIVATIONS, SparseModel, conv_node, linear_node, recurrent_node, tolerance
from nested_sparse.kernels import library
from nested_sparse.value_type import INT8
from nested_sparse.layouts import GatherScatter
from nested_sparse.value_type import INT8
print(library.isa(), library.kernel_for("conv", 4), library.kernel_for("linear", 16, 4))
print(library.isa(INT8), *(library.kernel_for(op, 4, value_type=INT8) for op in ("conv", "linear")))
rng = np.random.default_rng(0)
for block_rows in (1, 2, 4, 8, 16):
    node = conv_node(rng, 5, 21, block_rows, stride=(2, 1), permuted=True, clip=(0.0, 6.0))
    x = rng.standard_normal((2, 5, 17, 19)).astype(np.float32)
    for level in range(3):
        error = np.abs(SparseModel([node]).run(x, level) - node.dense(x, level)).max()
        assert error <= tolerance(node, level, x), (block_rows, level)
    node = linear_node(rng, 77, 21, block_rows, permuted=True)
    for count in (1, 40):
        x = rng.standard_normal((count, 77)).astype(np.float32)
        assert np.abs(SparseModel([node]).run(x, 2) - node.dense(x, 2)).max() <= tolerance(node, 2, x), block_rows
    for op in ("NestedLSTM", "NestedGRU"):
        node = recurrent_node(rng, op, 21, block_rows, permuted=True)
        for batch in (1, 20):
            x = rng.standard_normal((5, batch, node.weight.rows)).astype(np.float32)
            for got, expected in zip(SparseModel([node]).run_all(x, 2), node.steps(x, 2)):
                assert np.abs(got - expected).max() <= 1e-5, (op, block_rows, batch)
for activation in range(1, len(ACTIVATIONS)):
    node = linear_node(rng, 12, 1021, 4, activation=activation)
    x = rng.standard_normal((3, 12)).astype(np.float32) * np.float32([[0.1], [1.0], [30.0]])
    assert np.abs(SparseModel([node]).run(x, 2) - node.dense(x, 2)).max() <= tolerance(node, 2, x), activation
for stride in (1, 2, 3):
    window = {"kernel": (5, 3), "stride": (stride, stride), "pads": (2, 1, 2, 1)}
    node = conv_node(rng, 5, 5, 1, groups=5, densities=(1.0, 1.0, 1.0), **window)
    x = rng.standard_normal((2, 5, 17, 35)).astype(np.float32)
    assert np.abs(SparseModel([node]).run(x, 2) - node.dense(x, 2)).max() <= tolerance(node, 2, x), stride
for layout in (GatherScatter(16, 1), GatherScatter(16, 4), GatherScatter(8, 2)):
    node = conv_node(rng, 5, 21, 1, stride=(2, 1), permuted=True, clip=(0.0, 6.0), layout=layout)
    x = rng.standard_normal((2, 5, 17, 19)).astype(np.float32)
    assert np.abs(SparseModel([node]).run(x, 2) - node.dense(x, 2)).max() <= tolerance(node, 2, x), layout
    node = linear_node(rng, 77, 21, 1, permuted=True, layout=layout)
    for count in (1, 40):
        x = rng.standard_normal((count, 77)).astype(np.float32)
        assert np.abs(SparseModel([node]).run(x, 2) - node.dense(x, 2)).max() <= tolerance(node, 2, x), layout
"""

REGISTER = """
import onnxruntime
from nested_sparse.kernels import library
library.register(onnxruntime.SessionOptions())
"""


def run_with(isa: str, program: str) -> subprocess.CompletedProcess[str]:
    """`program` in a fresh process with NESTED_SPARSE_FORCE_ISA set."""
    environment = {**os.environ, "NESTED_SPARSE_FORCE_ISA": isa, "PYTHONPATH": os.pathsep.join(PATHS)}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("forced", "isa"),
    [(isa, isa) for isa in ("scalar", "avx2", "avx512", "neon")]
    + [("avxvnni", "avx2"), ("avx512vnni", "avx512"), ("neondot", "neon")],
)
def test_forced_instruction_set_is_used_and_right(forced: str, isa: str) -> None:
    """Whole operators on each set that this CPU has; int8 kernels use dot products of bytes where they are forced."""
    if not any(kernel.supported for kernel in library.kernels() if kernel.isa == forced):
        pytest.skip(f"this CPU or build has no {forced}")
    done = run_with(forced, COMPARE)
    assert done.returncode == 0, done.stderr
    floats, int8 = (line.split() for line in done.stdout.splitlines())
    assert floats[0] == isa
    assert all(kernel.endswith(f"_{isa}") for kernel in floats[1:]), floats
    assert int8[0] == forced
    assert all(kernel.endswith(f"_{forced}") for kernel in int8[1:]), int8


FOREIGN = "neon" if platform.machine() in ("x86_64", "AMD64") else "avx2"


@pytest.mark.parametrize(
    ("isa", "why"), [(FOREIGN, "this CPU or build does not support it"), ("sse9", "no such instruction set")]
)
def test_unusable_instruction_set_is_a_clear_error(isa: str, why: str) -> None:
    """KernelError says what the variable holds and what it may hold."""
    done = run_with(isa, REGISTER)
    assert done.returncode != 0
    assert f"KernelError: NESTED_SPARSE_FORCE_ISA is '{isa}': {why}" in done.stderr
    assert "usable here: scalar" in done.stderr


def test_library_names_what_it_runs() -> None:
    """The instruction set and kernels in use are in the list and supported."""
    assert library.library_path().is_file()
    supported = {kernel.name: kernel for kernel in library.kernels() if kernel.supported}
    for op in ("conv", "linear"):
        for block_rows in (1, 2, 4, 8, 16):
            kernel = supported[library.kernel_for(op, block_rows)]
            assert (kernel.op, kernel.isa, kernel.block_rows) == (op, library.isa(), block_rows)
            assert supported[library.kernel_for(op, block_rows, rows=64)].op == "conv"


@pytest.mark.parametrize("block_rows", [1, 2, 4, 8, 16])
def test_library_names_the_kernels_of_int8_weights(block_rows: int) -> None:
    """Vectors have kernels of their own, as bytes or floats; many vectors run those of convolutions."""
    conv = library.kernel_for("conv", block_rows, value_type=INT8)
    assert conv.startswith(f"spmm8_{block_rows}_")
    assert library.kernel_for("linear", block_rows, rows=64, value_type=INT8) == conv
    alone = library.kernel_for("linear", block_rows, value_type=INT8)
    floats = library.kernel_for("linear", block_rows, value_type=INT8, floats=True)
    assert len({conv, alone, floats}) == 3
    assert alone.endswith(f"_{block_rows}_{library.isa(INT8)}")
    assert floats.endswith(f"_{block_rows}_{library.isa()}_f32")
    many = library.kernel_for("linear", block_rows, rows=64, value_type=INT8, floats=True)
    assert many == library.kernel_for("conv", block_rows)


def test_no_kernel_is_a_clear_error() -> None:
    """Blocks that no kernel takes."""
    with pytest.raises(KernelError, match="no kernel for 'conv' with int8 blocks of 3 rows on"):
        library.kernel_for("conv", 3, value_type=INT8)


def test_missing_library_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """KernelError says how to build it."""
    monkeypatch.delenv("NESTED_SPARSE_LIBRARY", raising=False)
    monkeypatch.setattr(library, "FILE_NAME", "libnot_built.so")
    with pytest.raises(KernelError, match=r"libnot_built\.so is not installed; build it"):
        library.library_path()


def test_another_build_is_used_where_the_environment_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """NESTED_SPARSE_LIBRARY names the file; where there is none, KernelError says so."""
    other = tmp_path / "libother.so"
    monkeypatch.setenv("NESTED_SPARSE_LIBRARY", str(other))
    with pytest.raises(KernelError, match=r"NESTED_SPARSE_LIBRARY is '.*libother\.so': no such file"):
        library.library_path()
    other.write_bytes(b"")
    assert library.library_path() == other


def test_foreign_library_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that ONNX Runtime cannot load is a KernelError."""
    import onnxruntime

    foreign = tmp_path / "foreign.so"
    foreign.write_bytes(b"not a library")
    library.isa()
    monkeypatch.setattr(library, "library_path", lambda: foreign)
    with pytest.raises(KernelError, match=r"ONNX Runtime refused foreign\.so"):
        library.register(onnxruntime.SessionOptions())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda fields: fields[::-1], r"KernelRow\.\w+ as 0 4"),
        (lambda fields: (*fields, ("more", ctypes.c_int64)), r"KernelRow as 0 \d+ .*, got 0 \d+"),
        (lambda fields: (("other", fields[0][1]), *fields[1:]), r"KernelRow\.other as 0 8 .*, got absent"),
    ],
)
def test_structs_of_another_version_are_refused(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any], words: str
) -> None:
    """Fields in another order, one more, or one of another name: KernelError says which, and to build again."""
    wrong = type("KernelRow", (ctypes.Structure,), {"_fields_": change(structs.KernelRow._fields_)})
    others = tuple(each for each in structs.SHARED if each is not structs.KernelRow)
    loaded = library.loaded_library()
    structs.check_layout(loaded)
    monkeypatch.setattr(structs, "SHARED", (wrong, *others))
    with pytest.raises(KernelError, match=f"another version than this package: expected {words}.*; build it again"):
        structs.check_layout(loaded)


def test_a_struct_that_the_package_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library without information on its structs is refused, too."""
    monkeypatch.setattr(structs, "SHARED", structs.SHARED[1:])
    with pytest.raises(KernelError, match=r"expected KernelRow as absent"):
        structs.check_layout(library.loaded_library())
    with pytest.raises(KernelError, match=r"got absent"):
        structs.check_layout(ctypes.CDLL(None))


def test_every_struct_is_checked() -> None:
    """Those that Python hands to the library, and those inside them."""
    kinds = {each for each in vars(structs).values() if isinstance(each, type) and issubclass(each, ctypes.Structure)}
    assert kinds == set(structs.SHARED)
