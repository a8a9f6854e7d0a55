"""Case: one call of a kernel of quads, in memory that ends where it must not read, and the integers of its outputs."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from integer_reference import RowConstants, epilogue
from numpy.typing import NDArray
from spoiling import guarded

from nested_sparse.kernels.library import KernelInfo, run_quantized_kernel
from nested_sparse.kernels.structs import QuadLevel, Spmm8Args

UNTOUCHED = 77

Levels = list[tuple[NDArray[np.uint32], NDArray[np.uint16], NDArray[np.int8]]]


def random_levels(rng: np.random.Generator, block_rows: int, counts: NDArray[np.int64], columns: int) -> Levels:
    """Random quads; counts: (levels, groups) quads of each group. Weights are -127 to 127, all of them likely."""
    levels = []
    for of_groups in counts:
        ptr = np.concatenate([[0], np.cumsum(of_groups)]).astype(np.uint32)
        quads = int(ptr[-1])
        col = rng.integers(0, columns, (quads, 4)).astype(np.uint16)
        val = rng.integers(-127, 128, (quads, block_rows, 4)).astype(np.int8)
        levels.append((guarded(ptr), guarded(col), guarded(val)))
    return levels


def dense(levels: Levels, block_rows: int, columns: int) -> NDArray[np.int64]:
    """(packed rows, columns) what the quads stand for; weights of one column add up."""
    groups = levels[0][0].size - 1
    weight = np.zeros((groups, columns, block_rows), np.int64)
    for ptr, col, val in levels:
        of_group = np.repeat(np.arange(groups), np.diff(ptr))
        np.add.at(weight, (of_group[:, None], col), val.transpose(0, 2, 1))
    return weight.transpose(0, 2, 1).reshape(-1, columns)


def level_array(levels: Levels) -> Any:
    """The levels as kernels take them; it refers to their memory."""
    places = [QuadLevel(*(array.ctypes.data for array in level)) for level in levels]
    return (QuadLevel * len(levels))(*places)


def address(array: NDArray[Any] | None) -> int | None:
    """Where an array lies."""
    return None if array is None else array.ctypes.data


@dataclass
class Rows:
    """Constants of packed rows."""

    bias: NDArray[np.int32]
    shift: NDArray[np.int32]
    multiplier: NDArray[np.int16]

    @classmethod
    def random(cls, rng: np.random.Generator, count: int) -> Rows:
        """Such that outputs lie on both sides of 0 and 255 and between, with shifts of every size."""
        shift = rng.integers(0, 25, count)
        bias = rng.integers(-(2**18), 2**18, count) << np.maximum(shift - 8, 0)
        multiplier = rng.integers(-32767, 32768, count)
        return cls.of(np.clip(bias, -(2**30), 2**30), shift, multiplier)

    @classmethod
    def of(cls, bias: NDArray[Any], shift: NDArray[Any], multiplier: NDArray[Any]) -> Rows:
        """Their copies in the types of the kernels."""
        kinds = zip((bias, shift, multiplier), (np.int32, np.int32, np.int16), strict=True)
        return cls(*(guarded(values.astype(kind)) for values, kind in kinds))


@dataclass
class Case:
    """One call of a kernel: its arguments, and their meaning in Python."""

    levels: Levels
    block_rows: int
    rows: int
    constants: Rows
    x: NDArray[np.uint8]  # (groups or 1, columns, pixels): what each group sees
    residual: NDArray[np.uint8] | None = None  # (rows, pixels)
    residual_multiplier: int = 0
    table: NDArray[np.uint8] | None = None
    limits: tuple[int, int] = (0, 255)
    perm: NDArray[np.int32] | None = None
    keep: int | None = None
    pad: int = 0
    memory: dict[str, Any] = field(default_factory=dict)  # arguments of x, other than by 64 bytes a column

    @property
    def pixels(self) -> int:
        """Pixels of a row."""
        return self.x.shape[-1]

    def expected(self) -> NDArray[np.uint8]:
        """(rows, pixels) outputs."""
        groups, packed = self.levels[0][0].size - 1, self.constants.bias.size
        weight = dense(self.levels, self.block_rows, self.x.shape[1]).reshape(groups, self.block_rows, -1)
        sums = np.matmul(weight, self.x.astype(np.int64)).reshape(packed, self.pixels)
        outputs = np.arange(packed) if self.perm is None else self.perm
        y = np.full((self.rows, self.pixels), UNTOUCHED, np.uint8)
        for r, output in enumerate(outputs):
            if not 0 <= output < self.rows:
                continue
            row = RowConstants(
                int(self.constants.bias[r]),
                int(self.constants.shift[r]),
                int(self.constants.multiplier[r]),
                self.residual_multiplier,
            )
            residual = None if self.residual is None else self.residual[output]
            y[output] = epilogue(sums[r], row, self.limits, residual, self.table)
        if self.keep is not None:
            kept = (np.uint64(self.keep) >> np.arange(self.pixels, dtype=np.uint64)) & np.uint64(1)
            y[:, kept == 0] = self.pad
        return y

    def run(self, kernel: KernelInfo, groups: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """(rows, pixels) outputs of the kernel. Asserts that nothing beside them was written."""
        pitch = 64 + 5
        y = guarded(np.full((self.rows - 1) * pitch + self.pixels, UNTOUCHED, np.uint8))
        residual = None
        if self.residual is not None:
            residual = guarded(spread(self.residual, 64))
        x = None if self.memory else guarded(spread(self.x[0], 64))
        levels = level_array(self.levels)
        table = None if self.table is None else guarded(self.table)
        args = Spmm8Args(
            levels=ctypes.addressof(levels),
            level_count=len(self.levels),
            bias=address(self.constants.bias),
            shift=address(self.constants.shift),
            multiplier=address(self.constants.multiplier),
            perm=address(self.perm),
            rows=self.rows,
            residual=address(residual),
            residual_pitch=64,
            residual_multiplier=self.residual_multiplier,
            table=address(table),
            lo=self.limits[0],
            hi=self.limits[1],
            y=address(y),
            y_pitch=pitch,
            keep=self.keep or 0,
            pad=self.pad,
            masked=self.keep is not None,
            pixels=self.pixels,
            **(self.memory or {"x": address(x)}),
        )
        run_quantized_kernel(kernel.index, args, groups or (0, self.levels[0][0].size - 1))
        padded = np.full(self.rows * pitch, UNTOUCHED, np.uint8)
        padded[: y.size] = y
        beside = padded.reshape(self.rows, pitch)[:, self.pixels :]
        assert (beside == UNTOUCHED).all(), "written beside a row"
        return padded.reshape(self.rows, pitch)[:, : self.pixels]


def spread(rows: NDArray[np.uint8], pitch: int) -> NDArray[np.uint8]:
    """Rows `pitch` bytes apart, of which the last ends with its own bytes."""
    wide = np.zeros((len(rows), pitch), np.uint8)
    wide[:, : rows.shape[1]] = rows
    return wide.reshape(-1)[: (len(rows) - 1) * pitch + rows.shape[1]]


def make_case(kernel: KernelInfo, pixels: int, *, columns: int = 37, groups: int = 5, seed: int = 0) -> Case:
    """Three levels; a group without quads, one with quads at one level only, and padding rows where V allows."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 6, (3, groups))
    counts[:, 1] = 0
    counts[:2, 2] = 0
    counts[2, 2] = 1
    levels = random_levels(rng, kernel.block_rows, counts, columns)
    packed = groups * kernel.block_rows
    x = rng.integers(0, 256, (1, columns, pixels)).astype(np.uint8)
    rows = max(packed - kernel.block_rows // 2, 1)
    return Case(levels, kernel.block_rows, rows, Rows.random(rng, packed), x)


def assert_equal(case: Case, kernel: KernelInfo) -> None:
    """The kernel's outputs are the reference's."""
    np.testing.assert_array_equal(case.run(kernel), case.expected())


def permuted(case: Case) -> None:
    """Outputs in another order; padding rows anywhere."""
    perm = np.full(case.constants.bias.size, -1, np.int32)
    perm[: case.rows] = np.arange(case.rows)
    case.perm = guarded(np.random.default_rng(1).permutation(perm))


def with_residual(case: Case) -> None:
    """Residuals and multipliers of every size."""
    rng = np.random.default_rng(2)
    case.residual = rng.integers(0, 256, (case.rows, case.pixels)).astype(np.uint8)
    case.residual_multiplier = int(rng.integers(1, 32768))


def with_table(case: Case) -> None:
    """A table that is no permutation."""
    case.table = np.random.default_rng(3).integers(0, 256, 256).astype(np.uint8)


def masked(case: Case) -> None:
    """Positions that are no pixels."""
    case.keep, case.pad = int(np.random.default_rng(4).integers(0, 2**63)) | 2**63, 130


def clamped(case: Case) -> None:
    """Limits inside 0..255."""
    case.limits = (90, 200)
