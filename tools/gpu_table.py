"""GPU table: the sparse kernels beside torch's dense ones and its 2:4 ones, verified, in turns, on one GPU.

    python tools/gpu_table.py --out FOLDER [--rounds 30]

Every contender's output is compared with a float32 product before it is timed. A contender is a CUDA graph of several
calls, which leaves out the time that Python needs for a launch. The graphs take turns. The table has the median, over
the rounds, of the time between two events, for one call. Inputs of the calls rotate, so that none stays in a cache.
`ratio` is the dense time over the contender's. Each row goes to FOLDER/gpu_table.jsonl when it is ready.

Without a CUDA device the program does the same with small sizes, under Triton's interpreter, as a test of itself. It
then measures nothing, and each time is null.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import triton

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"

from nested_sparse.kernels import gpu  # noqa: E402
from nested_sparse.kernels.gpu import matmul, tiles  # noqa: E402
from nested_sparse.kernels.gpu.tune import tune  # noqa: E402
from nested_sparse.packed import PackedLevel  # noqa: E402

DEVICE = "cuda" if CUDA else "cpu"
DENSITIES = (0.125, 0.25, 0.5)
"""Of levels 0 to 2 of every layer: 87.5, 75 and 50 % sparse."""
CALLS, COPIES = (20, 4) if CUDA else (1, 1)
FEATURES, WIDE_BATCH, NARROW_BATCH = (4096, 4096, 256) if CUDA else (128, 24, 16)
MODEL, HEADS, SEQUENCE, SEQUENCES = (1024, 16, 512, 8) if CUDA else (64, 2, 8, 1)
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Largest |out - reference| / |reference| of one layer."""
BLOCK_TOLERANCE = 1e-2

Run = Callable[[int], torch.Tensor]
"""A call with one of the inputs, by its number."""


@dataclass
class Layer:
    """A sparse linear layer with random blocks and rows in random order, and its dense weights of each level."""

    sparse: gpu.SparseLinear
    dense: list[torch.Tensor]

    @classmethod
    def make(
        cls, block_rows: int, rows: int, columns: int, seed: int, dtype: torch.dtype, function: str = "none"
    ) -> Layer:
        """With values of a trained layer's size."""
        random = np.random.default_rng(seed)
        groups = rows // block_rows
        values = (random.standard_normal((groups, block_rows, columns)) / np.sqrt(columns)).astype(np.float32)
        place, order = random.random((groups, columns)), random.permutation(rows).astype(np.int32)
        levels, dense = [], []
        for low, high in zip((0.0, *DENSITIES), DENSITIES, strict=False):
            group, column = np.nonzero((place >= low) & (place < high))
            ptr = np.append(0, np.cumsum(np.bincount(group, minlength=groups))).astype(np.uint32)
            levels.append(PackedLevel(ptr, column.astype(np.uint16)[:, None], values[group, :, column]))
            kept = np.zeros((rows, columns), np.float32)
            kept[order] = np.where((place < high)[:, None], values, 0).reshape(rows, columns)
            dense.append(torch.from_numpy(kept).to(dtype).to(DEVICE))
        norms = np.tile(np.array([1, 0], np.float32)[None, :, None], (len(levels), 1, rows))
        weight = gpu.GpuWeight.of(levels, norms, columns, permutation=order, dtype=dtype, device=DEVICE)
        return cls(gpu.SparseLinear(weight, gpu.Epilogue(function=function)), dense)

    def tuned(self, count: int) -> dict[str, float]:
        """Median ms of each tile at the densest level; the best one is used from now on. Empty without a GPU."""
        weight = self.sparse.weight
        shape = tiles.Shape.of(weight.block_rows, weight.groups, count, weight.val)
        x = torch.randn(weight.inputs, count, dtype=weight.val.dtype, device=DEVICE).t()
        took = tune(shape, lambda: self.sparse(x, len(DENSITIES) - 1)) if CUDA else {}
        return {str(tile): ms for tile, ms in took.items()}


def error_of(out: torch.Tensor, reference: torch.Tensor) -> float:
    """|out - reference| / |reference|; not a number where an element is not one."""
    return float((out.float() - reference.float()).norm() / reference.float().norm())


def verified(runs: dict[str, Run], reference: torch.Tensor, tolerance: float) -> dict[str, Any]:
    """Errors of the contenders, and why one was left out: it is not there on this machine, or it is wrong."""
    said: dict[str, Any] = {}
    for name in list(runs):
        try:
            error = error_of(runs[name](0), reference)
        except Exception as problem:  # e.g. 2:4 on a machine without its library: the others go on
            said[name] = f"{type(problem).__name__}: {problem}"[:300]
            del runs[name]
            continue
        said[name] = error
        if not error <= tolerance:
            said[name] = f"wrong: error {error}, at most {tolerance} allowed"
            del runs[name]
    return said


def graph_of(run: Run) -> torch.cuda.CUDAGraph:
    """CALLS calls of `run`, ready to be replayed."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for index in range(COPIES):
            run(index)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(CALLS):
            run(index % COPIES)
    return graph


def median_ms(runs: dict[str, Run], rounds: int) -> dict[str, float | None]:
    """Of one call of each contender; None without a GPU."""
    if not CUDA:
        return dict.fromkeys(runs)
    graphs = {name: graph_of(run) for name, run in runs.items()}
    took: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in graphs}
    for _ in range(rounds + 2):
        for name, graph in graphs.items():
            events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[0].record()
            graph.replay()
            events[1].record()
            took[name].append(events)
    torch.cuda.synchronize()
    return {
        name: statistics.median(begin.elapsed_time(end) for begin, end in pairs[2:]) / CALLS
        for name, pairs in took.items()
    }


def row(work: str, level: int, runs: dict[str, Run], reference: torch.Tensor, tolerance: float, rounds: int) -> Any:
    """One line of the table; the first contender is the dense one."""
    errors = verified(runs, reference, tolerance)
    ms = median_ms(runs, rounds)
    dense = next(iter(ms.values()), None)
    ratios = {name: dense / value if dense and value else None for name, value in ms.items()}
    return {"work": work, "sparsity": 1 - DENSITIES[level], "ms": ms, "ratio": ratios, "errors": errors}


def linear_rows(block_rows: int, count: int, dtype: torch.dtype, rounds: int) -> Iterator[Any]:
    """A layer of FEATURES² at every level, beside dense and, at 50 %, beside 2:4, which has one level of 50 %."""
    layer = Layer.make(block_rows, FEATURES, FEATURES, 0, dtype)
    by_row = [torch.randn(count, FEATURES, dtype=dtype, device=DEVICE) for _ in range(COPIES)]
    by_feature = [x.t().contiguous().t() for x in by_row]
    title = f"linear {FEATURES} x {FEATURES}, N = {count}, V = {block_rows}, {str(dtype).removeprefix('torch.')}"
    yield {"tuned": title, "ms": layer.tuned(count)}
    for level, weight in enumerate(layer.dense):
        runs: dict[str, Run] = {
            "dense": lambda index, weight=weight: F.linear(by_row[index], weight),
            "ours": lambda index, level=level: layer.sparse(by_feature[index], level),
            "ours, x copied first": lambda index, level=level: layer.sparse(by_row[index], level),
        }
        reference = by_row[0].float() @ weight.float().t()
        yield row(title, level, runs, reference, TOLERANCE[dtype], rounds)
    yield from two_of_four(title, layer, by_row, by_feature, rounds)


def two_of_four(title: str, layer: Layer, by_row: list[Any], by_feature: list[Any], rounds: int) -> Iterator[Any]:
    """torch's semi-structured product, of weights that have its pattern, beside ours of as many weights."""
    dense = layer.dense[-1].clone()
    dense[:, :] = torch.randn_like(dense) / dense.shape[1] ** 0.5
    dense.view(-1, 4)[:, 2:] = 0  # any two of four: its time does not depend on their places
    ours = lambda index: layer.sparse(by_feature[index], len(DENSITIES) - 1)  # noqa: E731
    checked = error_of(ours(0), by_row[0].float() @ layer.dense[-1].float().t())
    try:
        packed = torch.sparse.to_sparse_semi_structured(dense)
        runs: dict[str, Run] = {"2:4": lambda index: F.linear(by_row[index], packed)}
        reference = by_row[0].float() @ dense.float().t()
        said = verified(runs, reference, TOLERANCE[dense.dtype])
    except Exception as problem:  # the row says that it is not there
        runs, said = {}, {"2:4": f"{type(problem).__name__}: {problem}"[:300]}
    ms = median_ms({**runs, "ours": ours}, rounds)
    ratio = ms["2:4"] / ms["ours"] if ms.get("2:4") and ms["ours"] else None
    yield {
        "work": f"2:4 beside {title}",
        "sparsity": 0.5,
        "ms": ms,
        "ratio": {"ours": ratio},
        "errors": said | {"ours": checked},
    }


class Block:
    """A Transformer's block before which and in which vectors are normalised: attention, then two linear layers."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.layers = {
            "qkv": Layer.make(64, 3 * MODEL, MODEL, 1, dtype),
            "out": Layer.make(64, MODEL, MODEL, 2, dtype),
            "up": Layer.make(64, 4 * MODEL, MODEL, 3, dtype, "gelu"),
            "down": Layer.make(64, MODEL, 4 * MODEL, 4, dtype),
        }
        one, zero = (make(MODEL, dtype=dtype, device=DEVICE) for make in (torch.ones, torch.zeros))
        self.norm = (one, zero)

    def attention(self, qkv: torch.Tensor) -> torch.Tensor:
        """[B, S, D] from [B, S, 3 D]."""
        parts = qkv.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).flatten(2)

    def dense(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """With the level's weights in dense layers."""
        weights = {name: layer.dense[level] for name, layer in self.layers.items()}
        normal = F.layer_norm(x, (MODEL,), *self.norm)
        x = x + F.linear(self.attention(F.linear(normal, weights["qkv"])), weights["out"])
        normal = F.layer_norm(x, (MODEL,), *self.norm)
        return x + F.linear(F.gelu(F.linear(normal, weights["up"])), weights["down"])

    def sparse(self, x: torch.Tensor, level: int | torch.Tensor) -> torch.Tensor:
        """By feature, but for the attention, which reads and writes row by row."""
        run = {name: layer.sparse for name, layer in self.layers.items()}
        qkv = run["qkv"](gpu.layer_norm(x, *self.norm), level).contiguous()
        x = run["out"](self.attention(qkv), level, residual=x)
        return run["down"](run["up"](gpu.layer_norm(x, *self.norm), level), level, residual=x)


def block_rows(rounds: int) -> Iterator[Any]:
    """The block at every level, beside torch as it is and as it compiles it."""
    block, dtype = Block(torch.float16), torch.float16
    count = SEQUENCES * SEQUENCE
    title = f"Transformer block, d = {MODEL}, {SEQUENCES} sequences of {SEQUENCE}, V = 64, float16"
    yield {"tuned": title, "ms": {name: layer.tuned(count) for name, layer in block.layers.items()}}
    by_row = [torch.randn(SEQUENCES, SEQUENCE, MODEL, dtype=dtype, device=DEVICE) for _ in range(COPIES)]
    by_feature = [x.flatten(0, 1).t().contiguous().t().view(x.shape) for x in by_row]
    compiled = torch.compile(block.dense, dynamic=False) if CUDA else block.dense
    for level in range(len(DENSITIES)):
        runs: dict[str, Run] = {
            "dense": lambda index, level=level: block.dense(by_row[index], level),
            "dense, torch.compile": lambda index, level=level: compiled(by_row[index], level),
            "ours": lambda index, level=level: block.sparse(by_feature[index], level),
        }
        yield row(title, level, runs, block.dense(by_row[0], level), BLOCK_TOLERANCE, rounds)


def switch() -> dict[str, Any]:
    """The cost of another level: bytes allocated, kernels compiled, and whether a recorded graph runs at it."""
    layer = Layer.make(64, FEATURES, FEATURES, 0, torch.float16)
    weight = layer.sparse.weight
    x = torch.randn(FEATURES, NARROW_BATCH, dtype=torch.float16, device=DEVICE).t()
    out = torch.empty(FEATURES, NARROW_BATCH, dtype=torch.float16, device=DEVICE).t()
    level = torch.zeros((), dtype=torch.int32, device=DEVICE)
    layer.sparse(x, level, out=out)
    facts: dict[str, Any] = {"work": "level switch", "allocated_bytes": None, "compiled": None, "graph_follows": None}
    if not CUDA:
        return facts
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        layer.sparse(x, level, out=out)
    kernels = lambda: sum(len(cache[0]) for cache in matmul.sparse_matmul.device_caches.values())  # noqa: E731
    allocated = lambda: torch.cuda.memory_stats()["allocated_bytes.all.allocated"]  # noqa: E731
    before, there = (allocated(), kernels()), []
    for value in (2, 0, 1):
        layer.sparse(x, value, out=out)
    facts.update(allocated_bytes=allocated() - before[0], compiled=kernels() - before[1])
    for value in (2, 0, 1):
        level.fill_(value)
        graph.replay()
        there.append(error_of(out, x.float() @ layer.dense[value].float().t()) <= TOLERANCE[torch.float16])
    facts["graph_follows"], facts["held_bytes"] = all(there), weight.nbytes
    return facts


def machine() -> dict[str, Any]:
    """The GPU and the libraries."""
    name = torch.cuda.get_device_name() if CUDA else "no GPU: interpreted, nothing is measured"
    return {
        "gpu": name,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
    }


def lines(rounds: int) -> Iterator[Any]:
    """All of the table, the most wanted rows first."""
    yield machine()
    yield from linear_rows(64, WIDE_BATCH, torch.float16, rounds)
    yield from linear_rows(64, NARROW_BATCH, torch.float16, rounds)
    yield switch()
    yield from block_rows(rounds)
    yield from linear_rows(128, WIDE_BATCH, torch.float16, rounds)
    yield from linear_rows(32, WIDE_BATCH, torch.float16, rounds)
    yield from linear_rows(64, WIDE_BATCH, torch.bfloat16, rounds)


def main() -> None:
    """Write the table, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu_table.jsonl")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False  # the reference is float32
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "gpu_table.jsonl").open("w") as file, torch.inference_mode():
        for line in lines(options.rounds):
            print(json.dumps(line), file=file, flush=True)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
