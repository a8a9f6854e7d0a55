"""The operator library: where it is, how ONNX Runtime gets it, and which kernels it runs."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import KernelError

from .structs import Clip, KernelCall, KernelRow, PackedLevel, PackedWeight, check_layout

if TYPE_CHECKING:
    import onnxruntime

FILE_NAME = "libnested_sparse_kernels.so"


@dataclass(frozen=True, slots=True)
class KernelInfo:
    """One line of the list of kernels (kernels.inc); `supported` is whether this CPU can run it."""

    index: int
    name: str
    op: str  # "conv" or "linear"
    isa: str
    block_rows: int
    banks: int  # B of gs{B}x{k} packs; 0 for blocks
    index_bytes: int
    value_bytes: int  # 4 for float32, 2 for float16
    vectors: int  # conv: pixel vectors in registers at once
    lanes: int  # conv: pixels of a vector
    supported: bool


def library_path() -> Path:
    """Path of the library: the one NESTED_SPARSE_LIBRARY names, or the built one. KernelError where it is absent."""
    if named := os.environ.get("NESTED_SPARSE_LIBRARY"):
        if Path(named).is_file():
            return Path(named)
        raise KernelError(f"NESTED_SPARSE_LIBRARY is {named!r}: no such file; unset it to use the installed library")
    with as_file(files("nested_sparse.kernels").joinpath(FILE_NAME)) as path:
        if path.is_file():
            return path
    raise KernelError(f"{FILE_NAME} is not installed; build it with `pip install .` (needs CMake and a C++17 compiler)")


def register(session_options: onnxruntime.SessionOptions) -> None:
    """Make the operators known to sessions made with `session_options`.

    Raises KernelError where the library is absent, does not fit this ONNX Runtime, or NESTED_SPARSE_FORCE_ISA asks for
    an instruction set that it cannot use.
    """
    isa()
    try:
        session_options.register_custom_ops_library(str(library_path()))
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        raise KernelError(f"ONNX Runtime refused {library_path().name}: {error}") from error


def isa() -> str:
    """Instruction set in use, e.g. "avx512" or "neon". Raises KernelError where the forced one cannot be used."""
    message = ctypes.c_char_p()
    name: bytes | None = loaded_library().nested_sparse_isa(ctypes.byref(message))
    if name is None:
        raise KernelError((message.value or b"").decode())
    return name.decode()


def kernels() -> list[KernelInfo]:
    """Every kernel in the library, best first."""
    found: list[KernelInfo] = []
    row = KernelRow()
    while loaded_library().nested_sparse_kernel(len(found), ctypes.byref(row)):
        names = (row.name.decode(), row.op.decode(), row.isa.decode())
        shape = (row.block_rows, row.banks, row.index_bytes, row.value_bytes, row.vectors, row.lanes)
        found.append(KernelInfo(len(found), *names, *shape, bool(row.supported)))
    return found


def kernel_for(
    op: str, block_rows: int, index_bytes: int = 2, *, rows: int = 1, banks: int = 0, value_bytes: int = 4
) -> str:
    """Name of the kernel that runs `op` ("conv" or "linear") on such weights. Raises KernelError where there is none.

    banks: B of gs{B}x{k} packs, 0 for blocks. value_bytes: 4 for float32, 2 for float16.
    rows: vectors that a linear layer is given at once; over many it runs the "conv" kernel, the rows being its pixels.
    """
    as_pixels = op == "linear" and rows >= loaded_library().nested_sparse_transpose_from()
    wanted = ("conv" if as_pixels else op, isa(), block_rows, index_bytes, value_bytes, banks)
    for kernel in kernels():
        has = (kernel.op, kernel.isa, kernel.block_rows, kernel.index_bytes, kernel.value_bytes, kernel.banks)
        if has == wanted:
            return kernel.name
    raise KernelError(
        f"no kernel for {op!r} with blocks of {block_rows} rows, packs of {banks}, "
        f"{index_bytes}-byte columns and {value_bytes}-byte values on {isa()}"
    )


def scratch_allocations() -> int:
    """How often operators have allocated scratch memory or plans in this process; switching the level adds none."""
    return int(loaded_library().nested_sparse_scratch_allocations())


@dataclass(frozen=True, slots=True)
class RawWeight:
    """Packed arrays for `run_kernel`: (ptr, col, val) per level, norm (2, G·V), perm (G·V,) int32 or None.

    val: float32, or float16 for the kernels whose value_bytes are 2.
    per_row: k of gs{B}x{k} packs, 0 for blocks.
    """

    rows: int
    levels: Sequence[tuple[NDArray[np.uint32], NDArray[np.unsignedinteger], NDArray[np.floating]]]
    norm: NDArray[np.float32]
    perm: NDArray[np.int32] | None = None
    per_row: int = 0


@dataclass(frozen=True, slots=True)
class RawPixels:
    """What a "conv" kernel needs beside the weight (spmm.h): pixels, and floats from a row of x or y to the next.

    y_whole: rows of y have room for whole vectors, and get them.
    """

    count: int
    x_pitch: int
    y_pitch: int
    y_whole: bool = False


def run_kernel(
    index: int,
    weight: RawWeight,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    *,
    residual: NDArray[np.float32] | None = None,
    clip: tuple[float, float] = (-np.inf, np.inf),
    groups: tuple[int, int] | None = None,
    pixels: RawPixels | None = None,
) -> None:
    """Run kernel `index` of the list on raw arrays, for tests and benchmarks: nothing is checked but the CPU.

    `y` is written in place; `groups` is the range of what the kernel works through: row groups, with packs
    the bundles of "linear" and the packed rows of "conv" (default: all). Raises KernelError.
    """
    levels = (PackedLevel * len(weight.levels))(*map(_packed_level, weight.levels))
    scale, shift = weight.norm
    rows_alone = weight.per_row and pixels is not None
    begin, end = groups or (0, scale.size if rows_alone else weight.levels[0][0].size - 1)
    packed = PackedWeight(
        levels=ctypes.addressof(levels),
        level_count=len(weight.levels),
        scale=_pointer(scale),
        shift=_pointer(shift),
        perm=_pointer(weight.perm),
        rows=weight.rows,
        per_row=weight.per_row,
    )
    call = KernelCall(
        weight=packed,
        x=_pointer(x),
        residual=_pointer(residual),
        y=_pointer(y),
        clip=Clip(*clip),
        group_begin=begin,
        group_end=end,
    )
    if pixels is not None:
        call.pixels, call.x_pitch = pixels.count, pixels.x_pitch
        call.y_pitch, call.y_whole = pixels.y_pitch, pixels.y_whole
    if not loaded_library().nested_sparse_run_kernel(index, ctypes.byref(call)):
        raise KernelError(f"kernel {index} is not in the list, or this CPU does not support it")


def _packed_level(level: tuple[NDArray[np.generic], ...]) -> PackedLevel:
    ptr, col, val = level
    halves = val.dtype == np.float16
    return PackedLevel(*map(_pointer, (ptr, col, None if halves else val, val if halves else None)))


def _pointer(array: NDArray[np.generic] | None) -> int | None:
    return None if array is None else array.ctypes.data


@lru_cache(maxsize=1)
def loaded_library() -> ctypes.CDLL:
    """The library with its C interface (exports.cc).

    Raises KernelError: absent, no library, or built from another version of this package.
    """
    try:
        library = ctypes.CDLL(str(library_path()))
    except OSError as error:
        raise KernelError(f"{FILE_NAME} cannot be loaded: {error}") from error
    check_layout(library)
    library.nested_sparse_isa.restype = ctypes.c_char_p
    library.nested_sparse_scratch_allocations.restype = ctypes.c_int64
    library.nested_sparse_transpose_from.restype = ctypes.c_int64
    library.nested_sparse_kernel.restype = ctypes.c_bool
    library.nested_sparse_run_kernel.restype = ctypes.c_bool
    library.nested_sparse_guard_this_thread.restype = ctypes.c_bool
    library.nested_sparse_flush_denormals.restype = ctypes.c_uint64
    library.nested_sparse_set_float_control.argtypes = (ctypes.c_uint64,)
    library.nested_sparse_set_float_control.restype = None
    library.nested_sparse_monotonic_ns.restype = ctypes.c_int64
    library.nested_sparse_arrive_at.restype = ctypes.c_int64
    return library
