"""GPU compiler report: registers, shared memory and instructions of the GPU's kernels, compiled where there is no GPU.

    python tools/gpu_compile.py [--capability 90] [--few]

Triton and the assembler that it brings need no driver. Each line is one kernel, as JSON; `stack` above 0 means that
registers did not suffice. `kernels` of the last line is the number of compilations of a layer that ran at every
level and with three numbers of vectors: 1. --few compiles two kernels, for tests.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget

from nested_sparse.kernels import gpu
from nested_sparse.kernels.gpu import matmul, tiles
from nested_sparse.packed import PackedLevel

COLUMNS = 288
ROWS = 256


class NoDriver:
    """A device of some compute capability for Triton to compile for; nothing can run on it."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        """The device."""
        return self.target

    def get_current_device(self) -> int:
        """Its number."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """The default stream."""
        return 0


class Compiled:
    """Takes the place of the kernel: compiles it as a launch with the same arguments would, and launches nothing."""

    def __init__(self) -> None:
        self.kernel, self.last = matmul.sparse_matmul, None
        matmul.sparse_matmul = self

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        """A call that compiles."""

        def compile_for(*args: Any, **options: Any) -> None:
            self.last = self.kernel.run(*args, grid=grid, warmup=True, **options)

        return compile_for

    def count(self) -> int:
        """Number of compiled kernels."""
        return len(self.kernel.device_caches[0][0])


def weight(block_rows: int, dtype: torch.dtype, columns: int = COLUMNS) -> gpu.GpuWeight:
    """Three levels with a tenth, two and three tenths of the blocks, on the CPU."""
    levels, groups = [], ROWS // block_rows
    for level in range(3):
        col = np.tile(np.arange(level, columns, 10), groups)
        ptr = np.arange(groups + 1) * (len(col) // groups)
        levels.append(
            PackedLevel(ptr.astype(np.uint32), col.astype(np.uint16), np.ones((len(col), block_rows), np.float32))
        )
    return gpu.GpuWeight.of(levels, np.ones((3, 2, ROWS), np.float32), columns, dtype=dtype, device="cpu")


def facts(kernel: Any) -> dict[str, object]:
    """Those of the assembled code."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        said = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    if found is None:
        sys.exit(f"cuobjdump named no registers: {said}")
    code = kernel.asm["ptx"]
    return {
        "registers": int(found[1]),
        "stack": int(found[2]),
        "shared": kernel.metadata.shared,
        "products": sorted(set(re.findall(r"\b(?:wgmma\.mma_async|mma)\.sync\S+", code))),
        "copies_bytes": sorted(
            {int(size, 0) for size in re.findall(r"cp\.async\.c[ag]\S* \[.*?\], \[.*?\], (\w+)", code)}
        ),
    }


def kernels(compiled: Compiled, few: bool) -> Iterator[dict[str, object]]:
    """Each V with each tile, linear; and with each kind of epilogue, type and window."""
    for block_rows in (64,) if few else gpu.BLOCK_ROWS:
        held = weight(block_rows, torch.float16)
        x = torch.empty(COLUMNS, 4096, dtype=torch.float16).t()
        shape = tiles.Shape.of(block_rows, held.groups, 4096, held.val)
        for tile in tiles.candidates(shape)[: 1 if few else None]:
            tiles.keep(shape, tile)
            gpu.SparseLinear(held)(x, 0)
            yield {"V": block_rows, "op": "linear", "tile": str(tile), **facts(compiled.last)}
        tiles.forget()
    for dtype, function in () if few else itertools.product((torch.float16, torch.bfloat16), ("gelu", "hard_swish")):
        held, x = weight(64, dtype), torch.empty(COLUMNS, 256, dtype=dtype).t()
        gpu.SparseLinear(held, gpu.Epilogue(0, 6, function))(x, 1, residual=torch.empty(ROWS, 256, dtype=dtype).t())
        yield {"V": 64, "op": "linear", "epilogue": function, "dtype": str(dtype), **facts(compiled.last)}
    if not few:
        images = torch.empty(4, COLUMNS, 14, 14, dtype=torch.float16)
        gpu.SparseConv(weight(64, torch.float16), gpu.Window())(images, 1)
        yield {"V": 64, "op": "conv 1x1", **facts(compiled.last)}
    window = gpu.Window((3, 3), (2, 2), (1, 1, 1, 1))
    for block_rows in (32,) if few else gpu.BLOCK_ROWS:
        layer = gpu.SparseConv(weight(block_rows, torch.float16, 18), window, gpu.Epilogue(0.0))
        layer(torch.empty(2, 2, 32, 32, dtype=torch.float16), 2)
        yield {"V": block_rows, "op": "conv 3x3", **facts(compiled.last)}


def recompilations(compiled: Compiled) -> int:
    """Compilations of one layer at every level, as a number and as a tensor, and with three numbers of vectors."""
    before, held = compiled.count(), weight(32, torch.bfloat16)
    layer = gpu.SparseLinear(held)
    for count in (600, 999, 1024):  # one bucket of sizes, one tile
        x = torch.empty(count, COLUMNS, dtype=torch.bfloat16)
        for level in (0, 1, 2, torch.tensor(1, dtype=torch.int32)):
            layer(x, level)
    return compiled.count() - before


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capability", type=int, default=90, help="compute capability, 90 for H100 and H200")
    parser.add_argument("--few", action="store_true")
    options = parser.parse_args()
    if matmul.INTERPRETED:
        sys.exit("TRITON_INTERPRET is set, so nothing is compiled: unset it")
    triton.runtime.driver.set_active(NoDriver(options.capability))
    compiled = Compiled()
    for line in kernels(compiled, options.few):
        print(json.dumps(line), flush=True)
    print(json.dumps({"kernels": recompilations(compiled)}))


if __name__ == "__main__":
    main()
