"""GpuCase: a random nested weight for the GPU's kernels, and its product computed in another way.

Where there is no CUDA device, Triton's interpreter runs the kernels on the CPU. It is chosen when a kernel is defined,
so tests import the kernels from here; the variable does not stay set for processes that tests start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="needs torch: the extra [gpu] or [train]")
pytest.importorskip("triton", reason="needs Triton: the extra [gpu]")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
with pytest.MonkeyPatch.context() as patch:
    if DEVICE == "cpu":
        patch.setenv("TRITON_INTERPRET", "1")
    from nested_sparse.kernels import gpu

from nested_sparse.packed import PackedLevel  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 5e-6
"""Of the sum of the magnitudes of all products, which float32 sums of a few hundred of them keep."""


@dataclass
class GpuCase:
    """`rows` x `columns` weights in blocks of V rows, of which group 1 keeps none at level 0."""

    block_rows: int
    rows: int
    columns: int
    dtype: object = torch.float16
    permuted: bool = True
    channel_groups: int = 1
    seed: int = 0
    densities: Sequence[float] = (0.1, 0.3, 0.5)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.groups = -(-self.rows // self.block_rows)
        self.values = self.random.normal(size=(self.groups * self.block_rows, self.columns)).astype(np.float32)
        self.place = self.random.random((self.groups, self.columns))
        if self.groups > 1:
            self.place[1] = np.maximum(self.place[1], self.densities[0])
        self.norms = self.random.normal(size=(len(self.densities), 2, self.rows)).astype(np.float32)
        self.permutation = self.random.permutation(self.rows).astype(np.int32) if self.permuted else None

    def packed(self) -> list[PackedLevel]:
        """The arrays of the file."""
        levels = []
        for low, high in zip([0.0, *self.densities], self.densities, strict=False):
            ptr, col, val = [0], [], []
            for group in range(self.groups):
                rows = slice(group * self.block_rows, (group + 1) * self.block_rows)
                for column in np.flatnonzero((self.place[group] >= low) & (self.place[group] < high)):
                    col.append([column])
                    val.append(self.values[rows, column])
                ptr.append(len(col))
            shaped = np.array(val, np.float32).reshape(-1, self.block_rows)
            levels.append(PackedLevel(np.array(ptr, np.uint32), np.array(col, np.uint16).reshape(-1, 1), shaped))
        return levels

    @cached_property
    def weight(self) -> gpu.GpuWeight:
        """On the device."""
        return gpu.GpuWeight.of(
            self.packed(), self.norms, self.columns,
            permutation=self.permutation, channel_groups=self.channel_groups, dtype=self.dtype, device=DEVICE,
        )  # fmt: skip

    def dense(self, level: int) -> NDArray[np.float64]:
        """(O, K) float64, from the stored values as the device holds them."""
        stored = torch.from_numpy(self.values).to(self.dtype).double().numpy()
        kept = np.repeat(self.place < self.densities[level], self.block_rows, axis=0)
        rows = np.where(kept, stored, 0)[: self.rows]
        if self.permutation is None:
            return rows
        ordered = np.empty_like(rows)
        ordered[self.permutation] = rows
        return ordered

    def tensor(self, *shape: int) -> Tensor:
        """Random numbers on the device."""
        return torch.from_numpy(self.random.normal(size=shape).astype(np.float32)).to(self.dtype).to(DEVICE)

    def assert_linear(self, y: Tensor, x: Tensor, level: int, residual: Tensor | None = None) -> None:
        """Check [..., O] without clamp or function against a product in float64."""
        w, scale, shift = self.dense(level), *self.norms[level].astype(np.float64)
        added = 0 if residual is None else float64(residual)
        self.assert_close(
            y, (float64(x) @ w.T) * scale + shift + added, np.abs(float64(x)) @ np.abs(w.T) * np.abs(scale)
        )

    @staticmethod
    def assert_close(y: Tensor, expected: NDArray[np.float64], magnitude: NDArray[np.float64]) -> None:
        """Check each output to its dtype's precision, and to float32's for its sum. Also that all are there."""
        assert y.shape == expected.shape
        rounding = torch.finfo(y.dtype).eps * np.abs(expected)
        error = np.abs(float64(y) - expected)
        assert (error <= rounding + TOLERANCE * (magnitude + np.abs(expected) + 1)).all(), error.max()


def float64(tensor: Tensor) -> NDArray[np.float64]:
    """The numbers of a tensor of any type and device."""
    numbers: NDArray[np.float64] = tensor.detach().double().cpu().numpy()
    return numbers
