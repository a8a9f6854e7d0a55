"""Tiles: the sizes of the part of an output that one program of a kernel computes, and their choice.

A program holds V rows by `pixels` sums in registers. Per column it reads V weights and `pixels` inputs, which is
1 / pixels + 1 / V loads for each product. At V = 64 the second cache gives a multiprocessor less than half of the bytes
that its tensor cores could use up (docs/decisions/052-gpu-kernels.md). So the widest tile that still gives every
multiprocessor work is the first choice. A choice belongs to a shape, never to a level: no level compiles anything anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton

WIDTHS = (16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Tile:
    """One program computes V output rows at `pixels` places, `step` columns at a time.

    warps: of 32 threads; 4 are a warpgroup, which issues Hopper's wgmma. stages: steps whose loads are in flight.
    """

    pixels: int
    step: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class Chip:
    """multiprocessors: that run programs at the same time. shared_bytes: shared memory that a program may have."""

    multiprocessors: int
    shared_bytes: int

    @classmethod
    def of(cls, device: torch.device) -> Chip:
        """That of the device; for the interpreter, one multiprocessor, so that it runs few programs."""
        return _chip(device.index or 0) if device.type == "cuda" else cls(1, 227 << 10)


@lru_cache
def _chip(index: int) -> Chip:
    facts = triton.runtime.driver.active.utils.get_device_properties(index)
    return Chip(facts["multiprocessor_count"], facts["max_shared_mem"])


@dataclass(frozen=True, slots=True)
class Shape:
    """The facts that a tile is chosen by.

    bucket: pixels of all images, rounded up to a power of 2. widest: most pixels of a tile.
    """

    block_rows: int
    groups: int
    bucket: int
    value_bytes: int
    widest: int
    chip: Chip

    @classmethod
    def of(cls, block_rows: int, groups: int, pixels: int, values: torch.Tensor, widest: int = WIDTHS[-1]) -> Shape:
        """The shape for an output of so many pixels."""
        bucket = 1 << max(0, pixels - 1).bit_length()
        return cls(block_rows, groups, bucket, values.element_size(), widest, Chip.of(values.device))


_chosen: dict[Shape, Tile] = {}
"""The tile of each shape that was used, in this process."""


def tile_for(shape: Shape) -> Tile:
    """The tile of this shape: that of `keep`, else the first of its candidates."""
    tile = _chosen.get(shape)
    if tile is None:
        tile = _chosen[shape] = candidates(shape)[0]
    return tile


def keep(shape: Shape, tile: Tile) -> None:
    """Use `tile` for this shape from now on, in this process."""
    _chosen[shape] = tile


def forget() -> None:
    """Choose by `candidates` again."""
    _chosen.clear()


def candidates(shape: Shape) -> list[Tile]:
    """Tiles worth a try, the best guess first; each fits in the chip's shared memory."""
    wide = max(WIDTHS[0], min(shape.widest, shape.bucket))
    while wide > 64 and shape.groups * (shape.bucket // wide) < shape.chip.multiprocessors:
        wide //= 2  # a half-empty chip loses more than loads that are shared by fewer rows
    steps: tuple[tuple[int, int], ...] = ((64, 4), (64, 3), (32, 5), (128, 2))
    if shape.widest < WIDTHS[-1]:
        steps = ((32, 4), (32, 3), (32, 2))
    if shape.value_bytes == 4:  # float32 has unrolled instructions and no tensor core: wide tiles compile for long
        wide, steps = min(wide, 32), ((16, 3), (32, 2))
    found = []
    for pixels in (wide, wide // 2, wide * 2):
        for step, stages in steps:
            stage_bytes = (shape.block_rows + pixels) * step * shape.value_bytes
            fitting = min(stages, shape.chip.shared_bytes // stage_bytes)
            warps = 8 if shape.block_rows * pixels > 64 * 128 else 4
            if pixels in WIDTHS and pixels <= shape.widest and fitting >= 2:
                found.append(Tile(pixels, step, warps, fitting))
    return list(dict.fromkeys(found)) or [Tile(16, 16, 4, 2)]
