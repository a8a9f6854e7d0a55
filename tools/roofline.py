"""Roofline: the bound of each convolution, for the table of docs/kernels.md.

    nested-sparse bench kernels --rows 'conv-rate-*' --layers | python tools/roofline.py

The tool reads the benchmark's last line and measures three rates of this machine on one thread. For every kind of layer
it prints the time that each rate allows, the measured time, and the share of it that the slowest rate takes and that
all three take together. The rates:

- multiply: the kernel's own loop over pixels in L1, on all lanes, including those without a pixel;
- gather: writing a matrix that stays in L2, line by line;
- memory: reading data beyond L2. Images larger than half of it count, y twice, because it is read before
  it is written (with a residual it has the residual's place), and so do the weights.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from nested_sparse.kernels.library import KernelInfo, RawPixels, RawWeight, isa, kernels, run_kernel

BLOCK_ROWS = 4
BLOCK_NBYTES = 4 * BLOCK_ROWS + 2
SECOND_CACHE_NBYTES = 1 << 20
LINE_FLOATS = 16


def best_seconds(run: Callable[[], object], repeats: int = 200) -> float:
    """The time of the fastest of many runs, in seconds, as on an otherwise idle machine."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def multiply_rate(kernel: KernelInfo) -> float:
    """FLOP/s of a dense weight by one tile, whose pixels fit L1: of more groups, without the call."""
    few, many = 64, 448
    flop_per_group = 2 * 64 * BLOCK_ROWS * kernel.lanes * kernel.vectors
    return flop_per_group * (many - few) / (multiply_seconds(kernel, many) - multiply_seconds(kernel, few))


def multiply_seconds(kernel: KernelInfo, groups: int) -> float:
    """Of `groups` groups of 64 blocks."""
    columns, pixels = 64, kernel.lanes * kernel.vectors
    ptr = np.arange(0, (groups + 1) * columns, columns, dtype=np.uint32)
    col = np.tile(np.arange(columns, dtype=np.uint16), groups)
    val = np.full((groups * columns, BLOCK_ROWS), 1e-3, np.float32)
    weight = RawWeight(groups * BLOCK_ROWS, [(ptr, col, val)], np.ones((2, groups * BLOCK_ROWS), np.float32))
    x, y = aligned((columns, pixels)), aligned((groups * BLOCK_ROWS, pixels))
    about = RawPixels(pixels, pixels, pixels)
    return best_seconds(lambda: run_kernel(kernel.index, weight, x, y, pixels=about))


def aligned(shape: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """An array of ones that begins on a cache line."""
    memory = np.ones(shape[0] * shape[1] + LINE_FLOATS, np.float32)
    begin = -memory.ctypes.data // 4 % LINE_FLOATS
    return memory[begin : begin + shape[0] * shape[1]].reshape(shape)


def write_rate() -> float:
    """Bytes/s written to half of L2."""
    memory = np.zeros(SECOND_CACHE_NBYTES // 8, np.float32)
    return memory.nbytes / best_seconds(lambda: memory.fill(1.0))


def read_rate() -> float:
    """Bytes/s read from eight times the size of L2."""
    memory = np.zeros(2 * SECOND_CACHE_NBYTES, np.float32)
    return memory.nbytes / best_seconds(memory.max)


def bounds_ms(layer: dict[str, Any], kernel: KernelInfo, rates: dict[str, float]) -> dict[str, float]:
    """The time that each rate allows one layer of the kind, in milliseconds, by the rate's name."""
    side, channels, rows = layer["side"], layer["channels"], layer["rows"]
    lanes = -(-(side**2) // kernel.lanes) * kernel.lanes
    flop = layer["ours_gflops"] * layer["ours_ms"] * 1e6 / layer["count"]
    columns = channels * layer["kernel"] ** 2
    pointwise = layer["kernel"] == layer["stride"] == 1
    images = (channels * (side * layer["stride"]) ** 2, 2 * rows * side**2)
    moved = [4 * floats for floats in images if 4 * floats > SECOND_CACHE_NBYTES // 2]
    weights = flop / (2 * side**2) / BLOCK_ROWS * BLOCK_NBYTES
    return {
        "multiply": 1e3 * flop * lanes / side**2 / rates["multiply"],
        "gather": 0.0 if pointwise else 1e3 * 4 * columns * lanes / rates["gather"],
        "memory": 1e3 * (sum(moved) + weights) / rates["memory"],
    }


def main() -> None:
    """Read, measure, print."""
    report = json.loads(sys.stdin.read().strip().splitlines()[-1])
    wanted = ("conv", isa(), BLOCK_ROWS, 2)
    kernel = next(k for k in kernels() if (k.op, k.isa, k.block_rows, k.index_bytes) == wanted)
    rates = {"multiply": multiply_rate(kernel), "gather": write_rate(), "memory": read_rate()}
    print(f"{kernel.name}: {rates['multiply'] / 1e9:.0f} GFLOP/s in L1; ", end="")
    print(f"matrix {rates['gather'] / 1e9:.0f} GB/s, memory {rates['memory'] / 1e9:.0f} GB/s")
    for row in report["rows"]:
        if not row.get("layers"):
            continue
        print(f"\n{row['name']}\n")
        print("| layer | ms | GFLOP/s | multiply | gather | memory | bound | its share | all three |")
        print("|---|---|---|---|---|---|---|---|---|")
        for layer in row["layers"]:
            ours = layer["ours_ms"] / layer["count"]
            allowed = bounds_ms(layer, kernel, rates)
            bound = max(allowed, key=lambda name: allowed[name])
            times = " | ".join(f"{allowed[name]:.3f}" for name in ("multiply", "gather", "memory"))
            name = f"{layer['layer']} × {layer['count']}"
            shares = f"{allowed[bound] / ours:.0%} | {sum(allowed.values()) / ours:.0%}"
            print(f"| {name} | {ours:.3f} | {layer['ours_gflops']:.0f} | {times} | {bound} | {shares} |")


if __name__ == "__main__":
    main()
