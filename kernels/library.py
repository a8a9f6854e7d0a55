"""Library: finds and loads the operator library, gives it to ONNX Runtime, and lists its kernels."""

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
from nested_sparse.value_type import FLOAT32, INT8, VALUE_TYPES, ValueType

from .structs import (
    Clip,
    Gather8Args,
    Gemv8Args,
    Gemv8FloatArgs,
    KernelCall,
    KernelRow,
    PackedLevel,
    PackedWeight,
    Spmm8Args,
    Sums8Args,
    check_layout,
)

if TYPE_CHECKING:
    import onnxruntime

_RUNNERS = {
    Spmm8Args: "nested_sparse_run_spmm8",
    Sums8Args: "nested_sparse_run_sums8",
    Gemv8Args: "nested_sparse_run_gemv8",
    Gemv8FloatArgs: "nested_sparse_run_float_gemv8",
}

FILE_NAME = "libnested_sparse_kernels.so"
PART_ROWS = 16
"""Rows of a block that kernels compute at a time, at most (packed.h: kPartRows)."""


@dataclass(frozen=True, slots=True)
class KernelInfo:
    """One line of the lists of kernels (kernels.inc, quantized/kernels.inc).

    value_type: type of the stored values that it reads.
    supported: whether this CPU can run it.
    """

    index: int
    name: str
    op: str  # "conv" or "linear"
    isa: str
    block_rows: int
    banks: int  # B of gs{B}x{k} gather groups; 0 for blocks
    index_bytes: int
    value_type: ValueType
    vectors: int  # conv: pixel vectors in registers at once
    lanes: int  # conv: pixels of a vector
    supported: bool


def library_path() -> Path:
    """Path of the library: the file that NESTED_SPARSE_LIBRARY names, else the installed one.

    Raises KernelError where there is no such file.
    """
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


def isa(value_type: ValueType = FLOAT32) -> str:
    """Instruction set in use, e.g. "avx512" or "neon". Raises KernelError where the forced one cannot be used.

    value_type: type of the weights; kernels of INT8 have sets of their own, e.g. "avx512vnni" or "neondot".
    """
    message = ctypes.c_char_p()
    name: bytes | None = loaded_library().nested_sparse_isa(value_type is INT8, ctypes.byref(message))
    if name is None:
        raise KernelError((message.value or b"").decode())
    return name.decode()


def kernels() -> list[KernelInfo]:
    """Every kernel in the library, best first."""
    found: list[KernelInfo] = []
    row = KernelRow()
    while loaded_library().nested_sparse_kernel(len(found), ctypes.byref(row)):
        found.append(
            KernelInfo(
                index=len(found),
                name=row.name.decode(),
                op=row.op.decode(),
                isa=row.isa.decode(),
                block_rows=row.block_rows,
                banks=row.banks,
                index_bytes=row.index_bytes,
                value_type=VALUE_TYPES[row.value_type.decode()],
                vectors=row.vectors,
                lanes=row.lanes,
                supported=bool(row.supported),
            )
        )
    return found


def kernel_for(
    op: str,
    block_rows: int,
    index_bytes: int = 2,
    *,
    rows: int = 1,
    banks: int = 0,
    value_type: ValueType = FLOAT32,
    floats: bool = False,
) -> str:
    """Name of the kernel that runs `op` ("conv", "linear", "recurrent") on such weights. Raises KernelError: none does.

    banks: B of gs{B}x{k} gather groups, 0 for blocks.
    rows: vectors that a linear layer is given at once, or sequences of a recurrent one; over many it runs the "conv"
        kernel, the rows being its pixels.
    floats: whether a linear layer of INT8 takes its vectors as floats.
    """
    if value_type.scaled:
        name: bytes | None = loaded_library().nested_sparse_int8_kernel(op == "linear", floats, block_rows, rows)
        if name is None:
            raise KernelError(f"no kernel for {op!r} with int8 blocks of {block_rows} rows on {isa(value_type)}")
        return name.decode()
    many = loaded_library().nested_sparse_transpose_from(block_rows, banks)
    of_list = "conv" if op == "conv" or rows >= many else "linear"
    wanted = (of_list, isa(value_type), min(block_rows, PART_ROWS), index_bytes, value_type, banks)
    for kernel in kernels():
        has = (kernel.op, kernel.isa, kernel.block_rows, kernel.index_bytes, kernel.value_type, kernel.banks)
        if has == wanted:
            return kernel.name
    raise KernelError(
        f"no kernel for {op!r} with blocks of {block_rows} rows, gather groups of {banks}, "
        f"{index_bytes}-byte columns and {value_type.name} values on {isa(value_type)}"
    )


def scratch_allocations() -> int:
    """How often operators have allocated scratch memory or plans in this process. A switch of the level adds none."""
    return int(loaded_library().nested_sparse_scratch_allocations())


@dataclass(frozen=True, slots=True)
class RawWeight:
    """Packed arrays for `run_kernel`: (ptr, col, val) of each level, norm (2, G·V), perm (G·V,) int32 or None.

    val: values of the dtype of the kernel's value type.
    per_row: k of gs{B}x{k} gather groups, 0 for blocks.
    parts: blocks of PART_ROWS rows that a block is made of, a power of two; 1 for blocks of no more rows.
    """

    rows: int
    levels: Sequence[tuple[NDArray[np.uint32], NDArray[np.unsignedinteger], NDArray[np.floating]]]
    norm: NDArray[np.float32]
    perm: NDArray[np.int32] | None = None
    per_row: int = 0
    parts: int = 1


@dataclass(frozen=True, slots=True)
class RawPixels:
    """Pixels for a "conv" kernel (spmm.h), or vectors for a "linear" one (gemv.h).

    count: pixels of a row, or vectors. x_pitch, y_pitch: floats from a row of x or y to the next.
    y_whole: whether the rows of y have room for whole vectors, which the kernel then writes.
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
    """Run kernel `index` of the list on raw arrays, for tests and benchmarks. Only the CPU is checked, not the arrays.

    y: output, written in place.
    groups: range of groups to compute, all by default. A group is a row group, or a part of one; of gather groups,
        "linear" kernels count bundles and "conv" kernels packed rows.

    Raises KernelError where the list has no such kernel, or this CPU does not support it.
    """
    levels = (PackedLevel * len(weight.levels))(*map(_packed_level, weight.levels))
    scale, shift = weight.norm
    rows_alone = weight.per_row and kernels()[index].op == "conv"
    begin, end = groups or (0, scale.size if rows_alone else (weight.levels[0][0].size - 1) * weight.parts)
    packed = PackedWeight(
        levels=ctypes.addressof(levels),
        level_count=len(weight.levels),
        scale=_pointer(scale),
        shift=_pointer(shift),
        perm=_pointer(weight.perm),
        rows=weight.rows,
        per_row=weight.per_row,
        part_bits=weight.parts.bit_length() - 1,
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
    call.pixels = 1
    if pixels is not None:
        call.pixels, call.x_pitch = pixels.count, pixels.x_pitch
        call.y_pitch, call.y_whole = pixels.y_pitch, pixels.y_whole
    if not loaded_library().nested_sparse_run_kernel(index, ctypes.byref(call)):
        raise KernelError(f"kernel {index} is not in the list, or this CPU does not support it")


def run_quantized_kernel(
    index: int, args: Spmm8Args | Sums8Args | Gemv8Args | Gemv8FloatArgs, groups: tuple[int, int]
) -> None:
    """Run kernel `index` of int8 weights on raw memory, for tests and benchmarks; with Sums8Args it stores sums.

    groups: range of row groups to compute.

    Raises KernelError where the list has no such kernel, or this CPU does not support it.
    """
    library = loaded_library()
    if not getattr(library, _RUNNERS[type(args)])(index, ctypes.byref(args), *groups):
        raise KernelError(f"kernel {index} is no kernel of int8 weights, or this CPU does not support it")


def gather_bytes(index: int, args: Gather8Args) -> None:
    """Run the gather kernel of bytes of the instruction set of kernel `index`, for tests. Raises as the above."""
    if not loaded_library().nested_sparse_run_gather8(index, ctypes.byref(args)):
        raise KernelError(f"kernel {index} is no kernel of int8 weights, or this CPU does not support it")


def _packed_level(level: tuple[NDArray[np.generic], ...]) -> PackedLevel:
    return PackedLevel(*map(_pointer, level))


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
    library.nested_sparse_isa.argtypes = (ctypes.c_bool, ctypes.c_void_p)
    library.nested_sparse_scratch_allocations.restype = ctypes.c_int64
    library.nested_sparse_transpose_from.argtypes = (ctypes.c_int32, ctypes.c_int32)
    library.nested_sparse_transpose_from.restype = ctypes.c_int64
    library.nested_sparse_int8_kernel.restype = ctypes.c_char_p
    library.nested_sparse_int8_kernel.argtypes = (ctypes.c_bool, ctypes.c_bool, ctypes.c_int32, ctypes.c_int64)
    library.nested_sparse_kernel.restype = ctypes.c_bool
    library.nested_sparse_run_kernel.restype = ctypes.c_bool
    for name in _RUNNERS.values():
        getattr(library, name).argtypes = (ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        getattr(library, name).restype = ctypes.c_bool
    library.nested_sparse_run_gather8.argtypes = (ctypes.c_int32, ctypes.c_void_p)
    library.nested_sparse_run_gather8.restype = ctypes.c_bool
    library.nested_sparse_guard_this_thread.restype = ctypes.c_bool
    library.nested_sparse_monotonic_ns.restype = ctypes.c_int64
    library.nested_sparse_arrive_at.restype = ctypes.c_int64
    return library
