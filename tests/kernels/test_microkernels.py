"""Microkernels: each one that this CPU supports, alone, compared with a plain float64 loop of the formula."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from sparse_node import DENSITIES, packed_permutation

from nested_sparse.errors import KernelError
from nested_sparse.kernels.library import PART_ROWS, KernelInfo, RawPixels, RawWeight, kernel_for, kernels, run_kernel
from nested_sparse.layouts import Blocks, GatherScatter
from nested_sparse.packing import pack_level
from nested_sparse.value_type import FLOAT16, FLOAT32, INT8
from nested_sparse.weight import NestedWeight
from support import random_weight

ALL = [kernel for kernel in kernels() if kernel.value_type is not INT8]  # test_quantized_microkernels.py has those
HALF_BLOCKS = [kernel for kernel in ALL if kernel.value_type is FLOAT16 and not kernel.banks]
OF_PARTS = [kernel for kernel in ALL if kernel.block_rows == PART_ROWS]
EPSILON = float(np.finfo(np.float32).eps)


def per_rows(kernel: KernelInfo) -> list[int]:
    """Every k of the gather groups that `kernel` computes; for blocks k means nothing."""
    return [k for k in range(1, kernel.banks + 1) if kernel.banks % k == 0] or [1]


def runnable(op: str, among: Sequence[KernelInfo] = ALL) -> list[object]:
    """The kernels of `op`; those that this CPU lacks are skipped by name."""
    reason = "this CPU or build does not support it"
    return [
        pytest.param(kernel, id=kernel.name, marks=[] if kernel.supported else [pytest.mark.skip(reason=reason)])
        for kernel in among
        if kernel.op == op
    ]


@dataclass
class Case:
    """A packed weight with an empty group and an empty level of a group, and what it computes."""

    weight: NestedWeight
    raw: RawWeight
    norm: np.ndarray  # (2, O) in output order

    def product(self, inputs: np.ndarray) -> np.ndarray:
        """(O, n) float64 scale * W x + shift at the densest level; inputs (K, n)."""
        dense = self.weight.at(len(self.raw.levels) - 1).astype(np.float64)
        return dense @ inputs.astype(np.float64) * self.norm[0][:, None] + self.norm[1][:, None]

    def tolerance(self, inputs: np.ndarray) -> np.ndarray:
        """(O, 1) bound of the float32 error: one rounding for each term and step, of their magnitudes' sum."""
        dense = np.abs(self.weight.at(len(self.raw.levels) - 1)).astype(np.float64)
        terms = (dense > 0).sum(axis=1) + 4
        magnitude = (dense.sum(axis=1) * np.abs(inputs).max() * np.abs(self.norm[0])) + np.abs(self.norm[1]) + 4
        return (EPSILON * terms * magnitude)[:, None]


def make_case(
    kernel: KernelInfo, rows: int, columns: int, permuted: bool, per_row: int = 1, seed: int = 0, parts: int = 1
) -> Case:
    """A random weight for `kernel`; its second group is empty at every level, its first at level 0.

    parts: blocks of the kernel's rows that a block of the weight is made of.
    """
    rng = np.random.default_rng(seed)
    layout = GatherScatter(kernel.banks, per_row) if kernel.banks else Blocks(kernel.block_rows * parts)
    columns = max(columns, kernel.banks)
    weight = random_weight(rng, rows=rows, columns=columns, permuted=permuted, layout=layout)
    groups = weight.first_level.reshape(weight.group_count, -1)
    groups[1:2] = 255
    groups[0][groups[0] == 0] = 1
    weight.values[...] = kernel.value_type.rounded(weight.values)
    norm = rng.standard_normal((2, rows)).astype(np.float32)
    perm = packed_permutation(weight) if permuted else None
    packed_norm = np.zeros((2, weight.packed_rows), np.float32)
    packed_norm[:, :rows] = norm if perm is None else norm[:, perm[:rows]]
    index = np.uint16 if kernel.index_bytes == 2 else np.uint32
    levels = [pack_level(weight, level) for level in range(len(DENSITIES))]
    arrays = [(level.ptr, level.col.astype(index), kernel.value_type.stored(level.val)) for level in levels]
    return Case(weight, RawWeight(rows, arrays, packed_norm, perm, layout.per_row, parts), norm)


def misaligned(values: np.ndarray) -> np.ndarray:
    """A copy that begins one float after a cache line."""
    buffer = np.empty(values.size + 32, np.float32)
    begin = -(buffer.ctypes.data // 4) % 16 + 1
    buffer[begin : begin + values.size] = values.reshape(-1)
    return buffer[begin : begin + values.size].reshape(values.shape)


@pytest.mark.parametrize("permuted", [False, True], ids=["ordered", "permuted"])
@pytest.mark.parametrize("kernel", runnable("conv"))
def test_spmm_for_every_count_of_pixels(kernel: KernelInfo, permuted: bool) -> None:
    """Odd rows, empty groups, misaligned arrays, and every tile width up to three tiles."""
    rng = np.random.default_rng(1)
    for per_row in per_rows(kernel):
        case = make_case(kernel, rows=37, columns=29, permuted=permuted, per_row=per_row)
        columns = case.weight.columns
        counts = {1, kernel.lanes, kernel.lanes + 1} | {
            kernel.lanes * n - n % 2 for n in range(1, 3 * kernel.vectors, 3)
        }
        for pixels in sorted(count for count in counts if count > 0):
            whole = -(-pixels // kernel.lanes) * kernel.lanes
            padded = misaligned(rng.standard_normal((columns, whole)).astype(np.float32))
            inputs = padded[:, :pixels]
            residual = misaligned(rng.standard_normal((37, pixels)).astype(np.float32))
            y = misaligned(np.full((37, pixels), np.nan, np.float32))
            about = RawPixels(pixels, x_pitch=whole, y_pitch=pixels)
            run_kernel(kernel.index, case.raw, padded, y, residual=residual, clip=(-1.0, 2.0), pixels=about)
            expected = np.clip(case.product(inputs) + residual, -1.0, 2.0)
            assert (np.abs(y - expected) <= case.tolerance(inputs)).all(), (per_row, pixels)


@pytest.mark.parametrize("kernel", runnable("conv"))
def test_spmm_of_whole_vectors(kernel: KernelInfo) -> None:
    """`y_whole`: the last vector is written to its end, and nothing beyond it; the residual has no such end."""
    rng = np.random.default_rng(2)
    case = make_case(kernel, rows=21, columns=13, permuted=True, per_row=per_rows(kernel)[-2:][0])
    columns = case.weight.columns
    for pixels in (1, kernel.lanes + 1, 3 * kernel.lanes):
        whole = -(-pixels // kernel.lanes) * kernel.lanes
        inputs = rng.standard_normal((columns, whole)).astype(np.float32)
        y = np.full((21, whole + 5), 77.0, np.float32)
        y[:, :pixels] = residual = rng.standard_normal((21, pixels)).astype(np.float32)
        about = RawPixels(pixels, x_pitch=whole, y_pitch=whole + 5, y_whole=True)
        run_kernel(kernel.index, case.raw, inputs, y, residual=y, pixels=about)
        expected = case.product(inputs)[:, :pixels] + residual
        assert (np.abs(y[:, :pixels] - expected) <= case.tolerance(inputs)).all(), pixels
        assert np.isfinite(y[:, pixels:whole]).all()
        assert (y[:, whole:] == 77.0).all()


@pytest.mark.parametrize("permuted", [False, True], ids=["ordered", "permuted"])
@pytest.mark.parametrize("kernel", runnable("linear"))
def test_gemv(kernel: KernelInfo, permuted: bool) -> None:
    """Column counts around every unrolling, odd rows, empty groups, residual, clip, misaligned arrays."""
    rng = np.random.default_rng(3)
    for columns, per_row in itertools.product((1, 3, 17, 64, 150), per_rows(kernel)):
        case = make_case(kernel, rows=35, columns=columns, permuted=permuted, per_row=per_row, seed=columns)
        inputs = misaligned(rng.standard_normal((case.weight.columns, 1)).astype(np.float32))
        residual = misaligned(rng.standard_normal((35, 1)).astype(np.float32))
        y = misaligned(np.full((35, 1), np.nan, np.float32))
        run_kernel(kernel.index, case.raw, inputs, y, residual=residual, clip=(-1.0, 2.0))
        expected = np.clip(case.product(inputs) + residual, -1.0, 2.0)
        assert (np.abs(y - expected) <= case.tolerance(inputs)).all(), (columns, per_row)


@pytest.mark.parametrize("permuted", [False, True], ids=["ordered", "permuted"])
@pytest.mark.parametrize("kernel", runnable("linear"))
def test_gemv_of_several_vectors(kernel: KernelInfo, permuted: bool) -> None:
    """Each count up to more than any kernel takes at once, rows further apart than they are long, in place.

    Each vector gets the same bits as alone.
    """
    rng = np.random.default_rng(4)
    case = make_case(kernel, rows=35, columns=37, permuted=permuted, per_row=per_rows(kernel)[-1])
    columns = case.weight.columns
    for count in (1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17):
        x = misaligned(rng.standard_normal((count, columns + 3)).astype(np.float32))
        y = misaligned(rng.standard_normal((count, 35 + 2)).astype(np.float32))
        before, pixels = y.copy(), RawPixels(count, x_pitch=columns + 3, y_pitch=35 + 2)
        run_kernel(kernel.index, case.raw, x, y, residual=y, clip=(-1.0, 2.0), pixels=pixels)
        inputs = np.ascontiguousarray(x[:, :columns].T)
        expected = np.clip(case.product(inputs) + before[:, :35].T, -1.0, 2.0)
        assert (np.abs(y[:, :35].T - expected) <= case.tolerance(inputs)).all(), count
        assert np.array_equal(y[:, 35:], before[:, 35:])
        for n in range(count):
            alone = np.ascontiguousarray(before[n, :35])
            run_kernel(kernel.index, case.raw, x[n].copy(), alone, residual=alone, clip=(-1.0, 2.0))
            assert np.array_equal(alone, y[n, :35]), (count, n)


@pytest.mark.parametrize("parts", [2, 8])
@pytest.mark.parametrize("kernel", [each for op in ("conv", "linear") for each in runnable(op, OF_PARTS)])
def test_parts_of_higher_blocks(kernel: KernelInfo, parts: int) -> None:
    """Blocks of 32 and 128 rows: odd rows, a last part of padding, empty groups, ranges that cut a row group."""
    rng = np.random.default_rng(6)
    rows = 2 * kernel.block_rows * parts + kernel.block_rows + 3
    for permuted, counts in ((False, (1, 3, 2 * kernel.lanes + 1)), (True, (2, 9))):
        case = make_case(kernel, rows, columns=29, permuted=permuted, parts=parts)
        groups = case.weight.group_count * parts
        for count in counts:
            whole = -(-count // (kernel.lanes or 1)) * (kernel.lanes or 1)
            shape = (29, whole) if kernel.op == "conv" else (count, 29)
            x = misaligned(rng.standard_normal(shape).astype(np.float32))
            inputs = x[:, :count] if kernel.op == "conv" else np.ascontiguousarray(x.T)
            residual = misaligned(rng.standard_normal((rows, count)).astype(np.float32))
            expected = np.clip(case.product(inputs) + residual, -1.0, 2.0)
            if kernel.op == "linear":
                residual = np.ascontiguousarray(residual.T)
            y = misaligned(np.full(residual.shape, np.nan, np.float32))
            pixels = RawPixels(count, x_pitch=x.shape[1], y_pitch=y.shape[1])
            for begin, end in itertools.pairwise((0, 1, groups // 2 + 1, groups)):
                options = {"residual": residual, "clip": (-1.0, 2.0), "groups": (begin, end), "pixels": pixels}
                run_kernel(kernel.index, case.raw, x, y, **options)  # type: ignore[arg-type]
            got = y if kernel.op == "conv" else y.T
            assert (np.abs(got - expected) <= case.tolerance(inputs)).all(), (permuted, count)


@pytest.mark.parametrize("op", ["conv", "linear"])
def test_kernels_write_only_their_groups(op: str) -> None:
    """A range of groups leaves the other outputs alone, so ranges may run at once."""
    for kernel in (kernel for kernel in ALL if kernel.op == op and kernel.supported):
        together = kernel.block_rows if op == "conv" or not kernel.banks else kernel.banks  # rows of a group
        case = make_case(kernel, rows=4 * together, columns=9, permuted=False)
        columns = case.weight.columns
        inputs = np.ones((columns, kernel.lanes if op == "conv" else 1), np.float32)
        y = np.full((4 * together, 1), 77.0, np.float32)
        pixels = RawPixels(1, x_pitch=kernel.lanes, y_pitch=1) if op == "conv" else None
        run_kernel(kernel.index, case.raw, inputs, y, groups=(2, 3), pixels=pixels)
        written = y[:, 0] != 77.0
        assert np.flatnonzero(written).tolist() == list(range(2 * together, 3 * together)), kernel


@pytest.mark.parametrize("kernel", [*runnable("conv"), *runnable("linear")])
def test_not_a_number_propagates(kernel: KernelInfo) -> None:
    """NaN and infinity of an input reach the outputs that read it, through the clip, and only those."""
    case = make_case(kernel, rows=16, columns=8, permuted=False)
    columns = case.weight.columns
    inputs = np.ones((columns, kernel.lanes if kernel.op == "conv" else 1), np.float32)
    inputs[3] = np.nan
    y = np.zeros((16, 1), np.float32)
    pixels = RawPixels(1, x_pitch=kernel.lanes, y_pitch=1) if kernel.op == "conv" else None
    run_kernel(kernel.index, case.raw, inputs, y, clip=(0.0, 6.0), pixels=pixels)
    reads = case.weight.mask(len(DENSITIES) - 1)[:, 3]
    assert np.array_equal(np.isnan(y[:, 0]), reads)
    inputs[3] = np.inf
    run_kernel(kernel.index, case.raw, inputs, y, clip=(0.0, 6.0), pixels=pixels)
    assert np.isin(y[reads], [0.0, 6.0]).all()


@pytest.mark.parametrize("kernel", [*runnable("conv", HALF_BLOCKS), *runnable("linear", HALF_BLOCKS)])
def test_every_half_is_widened_exactly(kernel: KernelInfo) -> None:
    """All 65536 of them, infinities and NaN too, one to a row: y = 1 · w · 1 + 0."""
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    groups = 65536 // kernel.block_rows
    ptr, col = np.arange(groups + 1, dtype=np.uint32), np.zeros(groups, f"u{kernel.index_bytes}")
    norm = np.stack([np.ones(65536, np.float32), np.zeros(65536, np.float32)])
    pixels = RawPixels(1, x_pitch=kernel.lanes, y_pitch=1) if kernel.op == "conv" else None
    y = np.zeros((65536, 1), np.float32)
    inputs = np.ones((1, kernel.lanes or 1), np.float32)
    run_kernel(kernel.index, RawWeight(65536, [(ptr, col, halves)], norm), inputs, y, pixels=pixels)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(y[:, 0], halves.astype(np.float32))


@pytest.mark.parametrize("block_rows", [1, 4, 16])
def test_halves_of_large_groups(block_rows: int) -> None:
    """Groups with more values than are widened at once, beside empty and small ones, at three levels."""
    rng = np.random.default_rng(5)
    for kernel in (k for k in HALF_BLOCKS if k.op == "conv" and k.supported and k.block_rows == block_rows):
        case = make_case(kernel, rows=3 * block_rows + 1, columns=5000, permuted=True)
        inputs = rng.standard_normal((5000, kernel.lanes)).astype(np.float32)
        y = np.full((3 * block_rows + 1, 1), np.nan, np.float32)
        run_kernel(kernel.index, case.raw, inputs, y, pixels=RawPixels(1, x_pitch=kernel.lanes, y_pitch=1))
        assert (np.abs(y - case.product(inputs[:, :1])) <= case.tolerance(inputs)).all(), kernel


def test_list_has_a_kernel_for_every_weight() -> None:
    """Each instruction set lists both operators for every V, every B, both column widths and every type of values."""
    weights = [(v, 0) for v in (1, 2, 4, 8, 16)] + [(1, banks) for banks in (8, 16)]
    for isa in {kernel.isa for kernel in ALL}:
        listed = {(k.op, k.block_rows, k.banks, k.index_bytes, k.value_type) for k in ALL if k.isa == isa}
        kinds = itertools.product(("conv", "linear"), weights, (2, 4), (FLOAT32, FLOAT16))
        assert listed == {(op, *weight, index, value) for op, weight, index, value in kinds}


def test_unknown_kernels_are_refused() -> None:
    """Asking for what is not in the list is an error, not a crash."""
    case = make_case(ALL[0], rows=16, columns=8, permuted=False)
    with pytest.raises(KernelError, match="not in the list"):
        run_kernel(len(kernels()), case.raw, np.ones((8, 1), np.float32), np.ones((16, 1), np.float32))
    with pytest.raises(KernelError, match="no kernel"):
        kernel_for("conv", 3)
