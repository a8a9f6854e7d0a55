"""Tune: the measured choice of a tile for a layer and a number of pixels."""

from __future__ import annotations

from collections.abc import Callable

from triton import testing
from triton.runtime.errors import OutOfResources

from .tiles import Shape, Tile, candidates, keep


def tune(shape: Shape, run: Callable[[], object], rounds_ms: int = 20) -> dict[Tile, float]:
    """Median ms of `run`, which computes one layer of this shape on a GPU, with each candidate; the best one is kept.

    Run it once at start, at the densest level: a choice is kept for the shape, whatever the level. A tile that needs
    more registers or shared memory than there are is left out. rounds_ms: time that each tile is given.
    """
    took: dict[Tile, float] = {}
    for tile in candidates(shape):
        keep(shape, tile)
        try:
            took[tile] = float(testing.do_bench(run, warmup=5, rep=rounds_ms, return_mode="median"))
        except OutOfResources:
            continue
    keep(shape, min(took, key=took.__getitem__, default=candidates(shape)[0]))
    return took
