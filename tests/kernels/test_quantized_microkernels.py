"""Microkernels of int8 weights: each one that this CPU supports, alone, equal to integers computed by numpy.

All memory that a kernel may touch ends at a page that it must not touch.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from quad_case import (
    UNTOUCHED,
    Case,
    Rows,
    address,
    assert_equal,
    clamped,
    dense,
    level_array,
    make_case,
    masked,
    permuted,
    random_levels,
    spread,
    with_residual,
    with_table,
)
from spoiling import guarded

from nested_sparse.errors import KernelError
from nested_sparse.kernels.library import KernelInfo, gather_bytes, kernel_for, kernels, run_quantized_kernel
from nested_sparse.kernels.structs import ByteRun, Gather8Args, Spmm8Args, Sums8Args
from nested_sparse.value_type import INT8

ALL = [kernel for kernel in kernels() if kernel.value_type is INT8]
SPMM = [kernel for kernel in ALL if kernel.op == "conv"]
BLOCK_ROWS = (1, 2, 4, 8, 16)
WIDTHS = (16, 32, 64)


def runnable(among: list[KernelInfo]) -> list[Any]:
    """Test parameters; kernels that this CPU lacks are skipped by name."""
    reason = "this CPU or build does not support it"
    return [
        pytest.param(kernel, id=kernel.name, marks=[] if kernel.supported else [pytest.mark.skip(reason=reason)])
        for kernel in among
    ]


each_kernel = pytest.mark.parametrize("kernel", runnable(SPMM))


VARIANTS: dict[str, list[Callable[[Case], None]]] = {
    "plain": [],
    "permuted": [permuted],
    "clamped": [clamped],
    "residual": [with_residual, clamped],
    "table": [with_table],
    "masked": [masked],
    "all": [permuted, with_residual, with_table, masked],
}


@pytest.mark.parametrize("variant", VARIANTS)
@each_kernel
def test_outputs_are_those_of_integers(kernel: KernelInfo, variant: str) -> None:
    """Every width, three seeds each."""
    for pixels, seed in itertools.product(WIDTHS, range(3)):
        case = make_case(kernel, pixels, seed=seed)
        for change in VARIANTS[variant]:
            change(case)
        assert_equal(case, kernel)


@each_kernel
def test_many_quads(kernel: KernelInfo) -> None:
    """Groups with more quads than any kernel may keep at once, and odd counts beside them."""
    for pixels in WIDTHS:
        rng = np.random.default_rng(pixels)
        counts = np.array([[257, 0, 31], [1, 130, 64], [66, 3, 5]])
        levels = random_levels(rng, kernel.block_rows, counts, 300)
        packed = 3 * kernel.block_rows
        x = rng.integers(0, 256, (1, 300, pixels)).astype(np.uint8)
        assert_equal(Case(levels, kernel.block_rows, packed, Rows.random(rng, packed), x), kernel)


@each_kernel
def test_every_shift_and_extreme_multipliers(kernel: KernelInfo) -> None:
    """Shifts 0 to 24 by multipliers of both signs, small and largest."""
    multipliers = (-32767, -16384, -1, 0, 1, 255, 32767)
    pairs = list(itertools.product(range(25), multipliers))
    packed = -(-len(pairs) // kernel.block_rows) * kernel.block_rows
    pairs += [(0, 0)] * (packed - len(pairs))
    for pixels in WIDTHS:
        rng = np.random.default_rng(pixels)
        levels = random_levels(rng, kernel.block_rows, rng.integers(0, 3, (1, packed // kernel.block_rows)), 9)
        shift, multiplier = np.array(pairs).T
        bias = rng.integers(-(2**15), 2**15, packed) * 2.0 ** np.minimum(shift, 15)
        rows = Rows.of(bias, shift, multiplier)
        case = Case(levels, kernel.block_rows, packed, rows, rng.integers(0, 256, (1, 9, pixels)).astype(np.uint8))
        assert_equal(case, kernel)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("columns", [4608, 32768])
@each_kernel
def test_largest_sums(kernel: KernelInfo, columns: int, sign: int) -> None:
    """All weights ±127, all activations 255, with biases of the same and of the other sign: 32 bits suffice."""
    packed = 2 * kernel.block_rows
    col = np.arange(columns, dtype=np.uint16).reshape(-1, 4)
    ptr = np.array([0, len(col), len(col)], np.uint32)
    val = np.full((len(col), kernel.block_rows, 4), sign * 127, np.int8)
    levels = [(guarded(ptr), guarded(col), guarded(val))]
    bias = np.where(np.arange(packed) % 2 == 0, sign, -sign) * (2**30 + 2**23)
    multiplier = np.where(np.arange(packed) % 3 == 0, 32767, -32767)
    for shift in (0, 15, 24):
        rows = Rows.of(bias, np.full(packed, shift), multiplier)
        x = np.full((1, columns, 16), 255, np.uint8)
        assert_equal(Case(levels, kernel.block_rows, packed, rows, x), kernel)


@each_kernel
def test_extremes_of_the_residual(kernel: KernelInfo) -> None:
    """The largest residual by the largest multiplier, on sums that are saturated already."""
    case = make_case(kernel, 64)
    packed = case.constants.bias.size
    bias = np.where(np.arange(packed) % 2 == 0, 2**30, -(2**30))
    case.constants = Rows.of(bias, np.zeros(packed), np.where(np.arange(packed) % 3 == 0, 32767, -32767))
    case.residual = np.zeros((case.rows, 64), np.uint8)
    case.residual[:, ::2] = 255
    for case.residual_multiplier in (1, 16384, 32767):
        assert_equal(case, kernel)


@pytest.mark.parametrize("pixels", WIDTHS)
@each_kernel
def test_columns_anywhere(kernel: KernelInfo, pixels: int) -> None:
    """Offsets: columns overlap, are unaligned and lie before x; the image fills its memory from end to end."""
    case = make_case(kernel, pixels)
    columns = case.x.shape[1]
    rng = np.random.default_rng(7)
    image = rng.integers(0, 256, 1000).astype(np.uint8)
    offsets = rng.integers(-300, 1000 - 300 - pixels + 1, columns)
    offsets[[0, 1]] = -300, 1000 - 300 - pixels
    case.x = np.stack([image[300 + at : 300 + at + pixels] for at in offsets])[None]
    placed = guarded(offsets.astype(np.int32))
    for before in (False, True):
        memory = guarded(image, before=before)
        case.memory = {"x": memory.ctypes.data + 300, "offsets": placed.ctypes.data}
        assert_equal(case, kernel)


@pytest.mark.parametrize("kernel", runnable([kernel for kernel in SPMM if kernel.block_rows == 1]))
def test_each_group_reads_its_own_channel(kernel: KernelInfo) -> None:
    """Depthwise layers: x advances from one group to the next, from the first group of the range on."""
    rng = np.random.default_rng(8)
    for pixels in WIDTHS:
        levels = random_levels(rng, 1, rng.integers(0, 4, (2, 6)), 9)
        x = rng.integers(0, 256, (6, 9, pixels)).astype(np.uint8)
        case = Case(levels, 1, 6, Rows.random(rng, 6), x)
        memory = guarded(spread(x.reshape(54, pixels), 64))
        offsets = guarded(np.arange(0, 9 * 64, 64, dtype=np.int32))
        for placed in (None, offsets):
            case.memory = {"x": memory.ctypes.data, "x_group_step": 9 * 64, "offsets": address(placed)}
            assert_equal(case, kernel)
            np.testing.assert_array_equal(case.run(kernel, (2, 5))[2:5], case.expected()[2:5])


@each_kernel
def test_groups_that_share_their_columns(kernel: KernelInfo) -> None:
    """Memory for the quads of all groups, where they have the same columns, in the first level alone."""
    for pixels, groups in itertools.product(WIDTHS, ((0, 6), (2, 5), (3, 3))):
        rng = np.random.default_rng(pixels)
        quads, packed = 7, 6 * kernel.block_rows
        ptr = np.arange(0, 7 * quads, quads, dtype=np.uint32)
        col = np.tile(rng.integers(0, 37, (quads, 4)), (6, 1)).astype(np.uint16)
        val = rng.integers(-127, 128, (6 * quads, kernel.block_rows, 4)).astype(np.int8)
        empty = (np.zeros(7, np.uint32), np.zeros((0, 4), np.uint16), np.zeros((0, kernel.block_rows, 4), np.int8))
        levels = [tuple(map(guarded, level)) for level in ((ptr, col, val), empty)]
        x = rng.integers(0, 256, (1, 37, pixels)).astype(np.uint8)
        case = Case(levels, kernel.block_rows, packed, Rows.random(rng, packed), x)  # type: ignore[arg-type]
        shared, memory = guarded(np.zeros(quads * 512, np.uint8)), guarded(spread(x[0], 64))
        case.memory = {"x": address(memory), "shared_quads": address(shared)}
        rows = slice(groups[0] * kernel.block_rows, groups[1] * kernel.block_rows)
        np.testing.assert_array_equal(case.run(kernel, groups)[rows], case.expected()[rows])


@each_kernel
def test_a_range_of_groups_leaves_the_others_alone(kernel: KernelInfo) -> None:
    """So ranges may run at once."""
    case = make_case(kernel, 32)
    y, rows = case.run(kernel, (1, 4)), slice(kernel.block_rows, 4 * kernel.block_rows)
    np.testing.assert_array_equal(y[rows], case.expected()[rows])
    y[rows] = UNTOUCHED
    assert (y == UNTOUCHED).all()


@each_kernel
def test_the_residual_may_be_the_output(kernel: KernelInfo) -> None:
    """Each output's residual is read before the output is written."""
    case = make_case(kernel, 64)
    permuted(case)
    with_residual(case)
    assert case.residual is not None
    y, levels = guarded(spread(case.residual, 64)), level_array(case.levels)
    x = guarded(spread(case.x[0], 64))
    args = Spmm8Args(
        levels=ctypes.addressof(levels), level_count=3, x=address(x), bias=address(case.constants.bias),
        shift=address(case.constants.shift), multiplier=address(case.constants.multiplier), perm=address(case.perm),
        rows=case.rows, residual=address(y), residual_pitch=64, residual_multiplier=case.residual_multiplier, hi=255,
        y=address(y), y_pitch=64, pixels=64,
    )  # fmt: skip
    run_quantized_kernel(kernel.index, args, (0, 5))
    np.testing.assert_array_equal(y.reshape(-1, 64), case.expected())


@each_kernel
def test_sums(kernel: KernelInfo) -> None:
    """The sums of packed rows, padding rows included, in the order of the pixels."""
    for pixels, placed in itertools.product(WIDTHS, (False, True)):
        case = make_case(kernel, pixels)
        packed, pitch = case.constants.bias.size, 64 + 3
        sums = guarded(np.full((packed - 1) * pitch + pixels, UNTOUCHED, np.int32))
        x, levels = guarded(spread(case.x[0], 64)), level_array(case.levels)
        offsets = guarded(np.arange(0, 37 * 64, 64, dtype=np.int32)) if placed else None
        args = Sums8Args(
            levels=ctypes.addressof(levels), level_count=3, x=address(x), offsets=address(offsets), sums=address(sums),
            sums_pitch=pitch, pixels=pixels,
        )  # fmt: skip
        run_quantized_kernel(kernel.index, args, (0, 5))
        whole = np.full(packed * pitch, UNTOUCHED, np.int32)
        whole[: sums.size] = sums
        expected = dense(case.levels, kernel.block_rows, 37) @ case.x[0].astype(np.int64)
        np.testing.assert_array_equal(whole.reshape(packed, pitch)[:, :pixels], expected)
        assert (whole.reshape(packed, pitch)[:, pixels:] == UNTOUCHED).all()


def random_runs(rng: np.random.Generator, taps: int, step: int, size: int) -> tuple[Any, NDArray[np.int32]]:
    """Runs of each tap, which rise and do not overlap, of a channel of `size` bytes; the first ones touch its ends."""
    runs, first = [], [0]
    for tap in range(taps):
        to = int(rng.integers(0, 3)) if tap else 0
        while to < 64:
            count = int(rng.integers(1, 65 - to)) if tap else 64
            span = (count - 1) * step + 1
            source = int(rng.integers(0, size - span + 1))
            runs.append(ByteRun(source=(0, size - span, source)[min(len(runs), 2)], to=to, count=count))
            to += count + int(rng.integers(0, 20))
        if rng.random() < 0.2 and tap:
            del runs[first[-1] :]
        first.append(len(runs))
    return (ByteRun * len(runs))(*runs), guarded(np.array(first, np.int32))


GATHERS = [kernel for kernel in SPMM if kernel.block_rows == 1]


@pytest.mark.parametrize("step", [1, 2, 3, 5])
@pytest.mark.parametrize("kernel", runnable(GATHERS))
def test_gathered_bytes(kernel: KernelInfo, step: int) -> None:
    """Runs of every length at every place, and the zero point elsewhere, for a range of channels."""
    for seed, (channels, taps) in enumerate([(1, 1), (5, 3), (6, 9), (40, 2)] * 5):
        rng = np.random.default_rng(seed)
        size = 64 * step + int(rng.integers(0, 40))
        image = rng.integers(0, 256, (channels + 2, size)).astype(np.uint8)
        runs, first = random_runs(rng, taps, step, size)
        expected = np.full((channels, taps, 64), 131, np.uint8)
        for channel, tap in np.ndindex(channels, taps):
            for run in runs[first[tap] : first[tap + 1]]:
                taken = image[channel + 2, run.source :: step][: run.count]
                expected[channel, tap, run.to : run.to + run.count] = taken
        for before in (False, True):
            x, rows = guarded(image, before=before), guarded(np.zeros(expected.shape, np.uint8), before=before)
            args = Gather8Args(
                x=address(x), channel_begin=2, channel_end=channels + 2, channel_step=size, runs=ctypes.addressof(runs),
                first=address(first), taps=taps, step=step, zero=131, rows=address(rows),
            )  # fmt: skip
            gather_bytes(kernel.index, args)
            np.testing.assert_array_equal(rows, expected)


def test_list_has_a_kernel_for_every_weight() -> None:
    """Each instruction set lists every V; the ones in use are among them."""
    for isa in {kernel.isa for kernel in ALL}:
        assert {kernel.block_rows for kernel in SPMM if kernel.isa == isa} == set(BLOCK_ROWS), isa
    supported = {kernel.name for kernel in ALL if kernel.supported}
    assert {kernel_for("conv", block_rows, value_type=INT8) for block_rows in BLOCK_ROWS} <= supported


def test_unknown_kernels_are_refused() -> None:
    """Kernels of floats, and numbers beyond the list, are errors and no crash."""
    for index in (-1, 0, ALL[0].index - 1, ALL[-1].index + 1):
        with pytest.raises(KernelError, match="no kernel of int8 weights"):
            run_quantized_kernel(index, Spmm8Args(), (0, 0))
        with pytest.raises(KernelError, match="no kernel of int8 weights"):
            gather_bytes(index, Gather8Args())
    with pytest.raises(KernelError, match="no kernel"):
        kernel_for("conv", 3, value_type=INT8)
