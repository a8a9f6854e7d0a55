"""The kernels that multiply int8 weights by vectors: each one that this CPU supports, alone, equal to numpy's sums.

All memory that a kernel may read or write ends at a page that it must not touch.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from spoiling import guarded

from nested_sparse.errors import KernelError
from nested_sparse.kernels.library import KernelInfo, kernels, run_quantized_kernel
from nested_sparse.kernels.structs import Gemv8Args, Gemv8FloatArgs, QuadLevel
from nested_sparse.value_type import INT8

ALL = [kernel for kernel in kernels() if kernel.value_type is INT8 and kernel.op == "linear"]
UNTOUCHED = 77
Level = tuple[NDArray[np.uint32], NDArray[np.uint16], NDArray[np.int8]]


def runnable(floats: bool) -> list[Any]:
    """Test parameters; kernels that this CPU lacks are skipped by name."""
    among = [kernel for kernel in ALL if kernel.name.endswith("_f32") == floats]
    reason = "this CPU or build does not support it"
    return [
        pytest.param(kernel, id=kernel.name, marks=[] if kernel.supported else [pytest.mark.skip(reason=reason)])
        for kernel in among
    ]


each_kernel = pytest.mark.parametrize("kernel", runnable(floats=False))
each_float_kernel = pytest.mark.parametrize("kernel", runnable(floats=True))


def random_levels(rng: np.random.Generator, block_rows: int, counts: NDArray[np.int64], columns: int) -> list[Level]:
    """Random quads; counts: (levels, groups) quads of each group. Weights are -127 to 127, all of them likely."""
    levels = []
    for of_groups in counts:
        ptr = np.concatenate([[0], np.cumsum(of_groups)]).astype(np.uint32)
        col = rng.integers(0, columns, (ptr[-1], 4)).astype(np.uint16)
        val = rng.integers(-127, 128, (ptr[-1], block_rows, 4)).astype(np.int8)
        levels.append((guarded(ptr), guarded(col), guarded(val)))
    return levels


def products(levels: list[Level], x: NDArray[Any]) -> NDArray[Any]:
    """(G, V) sums of weight times x, in the type of x."""
    groups, block_rows = levels[0][0].size - 1, levels[0][2].shape[1]
    sums = np.zeros((groups, block_rows), x.dtype)
    for ptr, col, val in levels:
        of_quads = (val.astype(x.dtype) * x[col][:, None, :]).sum(axis=2)
        np.add.at(sums, np.repeat(np.arange(groups), np.diff(ptr.astype(np.int64))), of_quads)
    return sums


def level_array(levels: list[Level]) -> Any:
    """The levels as kernels take them; it refers to their memory."""
    return (QuadLevel * len(levels))(*(QuadLevel(*(array.ctypes.data for array in level)) for level in levels))


def run(kernel: KernelInfo, levels: list[Level], x: NDArray[np.uint8], zero: int, part: slice) -> NDArray[np.int32]:
    """(G, V) sums of the groups of `part`; the others are UNTOUCHED."""
    groups = levels[0][0].size - 1
    row_sums = guarded(products(levels, np.ones(x.size, np.int64)).astype(np.int32))
    sums, held, places = (
        guarded(np.full((groups, kernel.block_rows), UNTOUCHED, np.int32)),
        guarded(x),
        level_array(levels),
    )
    args = Gemv8Args(
        levels=ctypes.addressof(places), level_count=len(levels), x=held.ctypes.data, x_zero=zero,
        row_sums=row_sums.ctypes.data, sums=sums.ctypes.data,
    )  # fmt: skip
    run_quantized_kernel(kernel.index, args, (part.start, part.stop))
    return sums


def counts_of(rng: np.random.Generator) -> NDArray[np.int64]:
    """(3, 11) quads: groups of none, of none at one level, of one, and of as many as take every loop of a kernel."""
    counts = rng.integers(0, 40, (3, 11))
    counts[:, 1], counts[:2, 2], counts[2, 2] = 0, 0, 1
    counts[:, 10] = 1, 2, 3
    return counts


@each_kernel
def test_sums_of_bytes(kernel: KernelInfo) -> None:
    """Several levels and zero points; whole, and a range of groups that leaves the others alone."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        levels = random_levels(rng, kernel.block_rows, counts_of(rng), 61)
        x = rng.integers(0, 256, 61).astype(np.uint8)
        for zero in (0, 3, 128, 255):
            expected = products(levels, x.astype(np.int64) - zero)
            np.testing.assert_array_equal(run(kernel, levels, x, zero, slice(0, 11)), expected)
            part = run(kernel, levels, x, zero, slice(3, 10))
            np.testing.assert_array_equal(part[3:10], expected[3:10])
            assert (part[:3] == UNTOUCHED).all()
            assert (part[10:] == UNTOUCHED).all()


@pytest.mark.parametrize("sign", [-1, 1])
@each_kernel
def test_largest_sums(kernel: KernelInfo, sign: int) -> None:
    """All weights ±127 and all bytes 255, or 0 with the zero point 255, over 32768 columns: 32 bits suffice."""
    col = np.arange(32768, dtype=np.uint16).reshape(-1, 4)
    ptr = np.array([0, len(col), len(col)], np.uint32)
    val = np.full((len(col), kernel.block_rows, 4), sign * 127, np.int8)
    levels = [(guarded(ptr), guarded(col), guarded(val))]
    for byte, zero in ((255, 0), (0, 255), (255, 255)):
        sums = run(kernel, levels, np.full(32768, byte, np.uint8), zero, slice(0, 2))
        assert (sums[0] == sign * 127 * (byte - zero) * 32768).all()
        assert (sums[1] == 0).all()


@each_float_kernel
def test_sums_of_floats(kernel: KernelInfo) -> None:
    """Several levels; whole, and a range of groups that leaves the others alone."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        levels = random_levels(rng, kernel.block_rows, counts_of(rng), 61)
        x = guarded(rng.standard_normal(61).astype(np.float32))
        expected = products(levels, x.astype(np.float64))
        terms = 4 * sum(np.diff(ptr.astype(np.int64)) for ptr, _, _ in levels)
        bound = np.finfo(np.float32).eps * terms[:, None] * products(magnitudes(levels), np.abs(x).astype(np.float64))
        places = level_array(levels)
        for part in (slice(0, 11), slice(3, 10)):
            sums = guarded(np.full((11, kernel.block_rows), UNTOUCHED, np.float32))
            args = Gemv8FloatArgs(ctypes.addressof(places), len(levels), x.ctypes.data, sums.ctypes.data)
            run_quantized_kernel(kernel.index, args, (part.start, part.stop))
            assert (np.abs(sums - expected)[part] <= bound[part]).all()
            assert (np.delete(sums, part, axis=0) == UNTOUCHED).all()


def magnitudes(levels: list[Level]) -> list[Level]:
    """The levels with the magnitudes of their weights."""
    return [(ptr, col, np.abs(val)) for ptr, col, val in levels]


def test_every_block_height_is_listed() -> None:
    """For bytes and for floats, on every instruction set that has any."""
    for isa in {kernel.isa for kernel in ALL}:
        of_isa = [kernel for kernel in ALL if kernel.isa == isa]
        assert sorted(kernel.block_rows for kernel in of_isa if not kernel.name.endswith("_f32")) == [1, 2, 4, 8, 16]
    for isa in {kernel.isa for kernel in kernels() if kernel.value_type is not INT8}:
        floats = [kernel for kernel in ALL if kernel.isa == isa and kernel.name.endswith("_f32")]
        assert sorted(kernel.block_rows for kernel in floats) == [1, 2, 4, 8, 16]


def test_arguments_of_another_kind_are_refused() -> None:
    """A kernel of floats given bytes, and the other way round."""
    bytes_kernel = next(kernel for kernel in ALL if kernel.supported and not kernel.name.endswith("_f32"))
    floats_kernel = next(kernel for kernel in ALL if kernel.supported and kernel.name.endswith("_f32"))
    with pytest.raises(KernelError):
        run_quantized_kernel(bytes_kernel.index, Gemv8FloatArgs(), (0, 0))
    with pytest.raises(KernelError):
        run_quantized_kernel(floats_kernel.index, Gemv8Args(), (0, 0))
