"""SizeGrowth: the growth of a run's time with one free size of the inputs."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nested_sparse.argument import shown, whole
from nested_sparse.errors import InputError
from nested_sparse.free_size import FreeSize

MOST_DOUBLINGS = 6
"""Sizes are measured up to so many doublings of the example's, and down to HALVINGS halves of it."""
HALVINGS = 3
UNBOUNDED_DOUBLINGS = 2
"""The same for a size without a bound, whose largest use is not known."""


@dataclass(frozen=True, slots=True)
class SizeGrowth:
    """Milliseconds of one run over one free size; all other sizes are the example's.

    name: of the size. example: its size in the example. sizes: ascending, the example's among them. ms: [level][size],
    which never falls with the level nor with the size.
    """

    name: str
    example: int
    sizes: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, name: str, example: int, sizes: Sequence[int], ms: Sequence[Sequence[float]]) -> SizeGrowth:
        """Checked, and raised where noise made it fall. Raises InputError."""
        whole_sizes = tuple(whole("latency profile: sizes", size, 1) for size in sizes)
        try:
            table = np.asarray(ms, dtype=np.float64)
        except (ValueError, TypeError, OverflowError):  # ragged, or no numbers
            table = np.zeros(0)
        ascends = list(whole_sizes) == sorted(set(whole_sizes)) and example in whole_sizes
        if not ascends or not isinstance(name, str) or table.ndim != 2 or table.shape[1] != len(whole_sizes):
            raise InputError(f"latency profile: expected times at rising sizes, got {shown(sizes)} and {shown(ms)}")
        if not (np.isfinite(table).all() and (table > 0).all()):
            raise InputError("latency profile: times must be finite and above 0 ms")
        risen = np.maximum.accumulate(np.maximum.accumulate(table, axis=0), axis=1)
        return cls(name, whole("latency profile: example", example, 1), whole_sizes, tuple(map(tuple, risen.tolist())))

    @classmethod
    def from_fields(cls, fields: Any) -> SizeGrowth:
        """The growth of which asdict() made `fields`. Raises InputError, KeyError, TypeError."""
        return cls.of(fields["name"], fields["example"], fields["sizes"], fields["ms"])

    def factor(self, level: int, size: float) -> float:
        """Time at `size` over the time at the example's.

        Linear between measured sizes; the smallest one's time below it. Beyond the largest one it grows as it did up to
        there, in proportion at least.
        """
        row, sizes = self.ms[level], self.sizes
        example_ms = row[sizes.index(self.example)]
        right = bisect.bisect_right(sizes, size)
        if right == 0:
            return row[0] / example_ms
        if right == len(sizes):
            return row[-1] * math.pow(size / sizes[-1], self._power) / example_ms
        share = (size - sizes[right - 1]) / (sizes[right] - sizes[right - 1])
        return (row[right - 1] + share * (row[right] - row[right - 1])) / example_ms

    @property
    def _power(self) -> float:
        """Of the growth beyond the largest size: one for all levels, so that none becomes faster than a sparser one."""
        if len(self.sizes) < 2:
            return 1.0
        widened = math.log(self.sizes[-1] / self.sizes[-2])
        return max(1.0, *(math.log(row[-1] / row[-2]) / widened for row in self.ms))

    def quieter(self, other: SizeGrowth) -> SizeGrowth:
        """The shorter time of each case from both; a case of one of them alone is kept. Raises InputError."""
        sizes = sorted({*self.sizes, *other.sizes})
        ms = [
            [
                min(each.ms[level][each.sizes.index(size)] for each in (self, other) if size in each.sizes)
                for size in sizes
            ]
            for level in range(len(self.ms))
        ]
        return SizeGrowth.of(self.name, self.example, sizes, ms)


def measured_sizes(free: FreeSize, example: int) -> tuple[int, ...]:
    """The sizes beside the example's to measure, ascending: halves and doubles of it, and its bounds where near."""
    doublings = MOST_DOUBLINGS if free.most is not None else UNBOUNDED_DOUBLINGS
    wanted = [free.nearest(example * 2.0**power) for power in range(-HALVINGS, doublings + 1)]
    return tuple(sorted(set(wanted) - {example}))
