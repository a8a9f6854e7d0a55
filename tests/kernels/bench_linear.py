"""Times a NestedLinear of 4096 x 4096 (block16x1, 25 %) against ONNX Runtime's dense MatMul.

python tests/kernels/bench_linear.py [--size 4096] [--pattern gs16x1] [--density 0.25] [--threads 1] [--rows 1 16]

Runs of the two alternate. Outputs are compared before anything is timed. Prints a table and one final JSON line.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1]))
from sparse_node import SparseModel, SparseNode, linear_node, session_of, tolerance

from nested_sparse.kernels import library
from nested_sparse.pattern import parse_pattern


def dense_twin(node: SparseNode, threads: int) -> ort.InferenceSession:
    """MatMul by the same weight, scale folded in, and an Add of the shift."""
    weight = (node.weight.at(0) * node.norms[0, 0][:, None]).T
    tensors = [
        numpy_helper.from_array(np.ascontiguousarray(weight), "w"),
        numpy_helper.from_array(node.norms[0, 1], "b"),
    ]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    return session_of(helper.make_graph(nodes, "dense", [x], [y], tensors), threads)


def main() -> None:
    """Build, compare, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--pattern", type=parse_pattern, default=parse_pattern("block16x1"))
    parser.add_argument("--density", type=float, default=0.25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64])
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    pattern = args.pattern
    about = {"densities": (args.density,), "pack": pattern.pack}
    node = linear_node(rng, args.size, args.size, pattern.block_rows, **about)
    sparse, dense = SparseModel([node], threads=args.threads), dense_twin(node, args.threads)
    samples: dict[str, dict[str, list[float]]] = {}
    print(f"{'rows':>5} {'sparse ms':>10} {'dense ms':>9}   (best of {args.repeats})")
    for rows in args.rows:
        x = rng.standard_normal((rows, args.size)).astype(np.float32)
        if not np.abs(sparse.run(x, 0) - dense.run(None, {"x": x})[0]).max() < 2 * tolerance(node, 0, x):
            raise SystemExit(f"the two disagree for {rows} rows")
        taken: dict[str, list[float]] = collections.defaultdict(list)
        for _ in range(args.repeats):
            begin = time.perf_counter()
            sparse.run(x, 0)
            middle = time.perf_counter()
            dense.run(None, {"x": x})
            taken["sparse"].append((middle - begin) * 1e3)
            taken["dense"].append((time.perf_counter() - middle) * 1e3)
        samples[str(rows)] = dict(taken)
        print(f"{rows:5d} {min(taken['sparse']):10.3f} {min(taken['dense']):9.3f}")
    kernel = library.kernel_for("linear", pattern.block_rows, banks=pattern.pack.banks if pattern.pack else 0)
    facts = {"isa": library.isa(), "threads": args.threads, "kernel": kernel}
    print(json.dumps({**facts, "size": args.size, "density": args.density, "samples_ms": samples}))


if __name__ == "__main__":
    main()
