"""Tiles: the sizes of the part of an output that one program of a kernel computes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tile:
    """One program computes V output rows at `pixels` places, `step` columns at a time.

    warps: of 32 threads; 4 are a warpgroup, which issues Hopper's wgmma. stages: steps whose loads are in flight.
    """

    pixels: int
    step: int
    warps: int
    stages: int


def tile_for(block_rows: int, pixels: int, groups: int) -> Tile:
    """The tile for a weight of `groups` row groups and an output of so many pixels."""
    width = 32
    while width < 256 and pixels > width and groups * pixels > 132 * width:
        width *= 2
    return Tile(width, 64, 8 if width >= 256 else 4, 4)
