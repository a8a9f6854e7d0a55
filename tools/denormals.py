"""The time of layers whose inputs are denormal numbers: `NESTED_SPARSE_FORCE_ISA=avx2 python tools/denormals.py`.

A linear layer and a convolution of ours, and ONNX Runtime's own dense convolution, which nothing flushes here. Inputs
are of ordinary size, or some of them denormal, or all, in turn in one process; best and median of 15 runs. Decision 027
quotes its output.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "kernels"))

from nested_sparse.kernels import library  # before onnxruntime, which else sends telemetry

import onnx  # isort: skip
import onnxruntime as ort  # isort: skip
from sparse_node import SparseModel, conv_node, linear_node  # isort: skip

ROUNDS = 15


def measure(name: str, run: Callable[[np.ndarray], object], shape: tuple[int, ...]) -> None:
    """Print a line of milliseconds for each kind of input."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(shape).astype(np.float32)
    tiny = (normal * 1e-40).astype(np.float32)
    inputs = {"normal": normal, "5 % denormal": np.where(rng.random(shape) < 0.05, tiny, normal), "denormal": tiny}
    times_ms: dict[str, list[float]] = {kind: [] for kind in inputs}
    for _ in range(ROUNDS):
        for kind, x in inputs.items():
            begin_s = time.perf_counter()
            run(x)
            times_ms[kind].append((time.perf_counter() - begin_s) * 1e3)
    figures = (f"{kind} {min(each):.3f} ({np.median(each):.3f})" for kind, each in times_ms.items())
    print(f"{name}: best (median) ms: {', '.join(figures)}", flush=True)


def dense_convolution() -> Callable[[np.ndarray], object]:
    """ONNX Runtime's own, 3 × 3, 64 to 64 channels."""
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    weight = np.random.default_rng(1).standard_normal((64, 64, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)],
        "dense",
        [helper.make_tensor_value_info("x", float32, [1, 64, 56, 56])],
        [helper.make_tensor_value_info("y", float32, None)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})


def main() -> None:
    """All three, on one thread."""
    rng = np.random.default_rng(2)
    linear = SparseModel([linear_node(rng, 2048, 2048, 16, densities=(0.25,))], threads=1)
    conv = SparseModel([conv_node(rng, 64, 64, 4, densities=(0.13,))], threads=1)
    isa = library.isa()
    measure(f"{isa}, linear 2048 × 2048 at 25 %", lambda x: linear.run(x, 0), (1, 2048))
    measure(f"{isa}, convolution 3 × 3, 64 → 64 at 13 %, 56²", lambda x: conv.run(x, 0), (1, 64, 56, 56))
    measure("ONNX Runtime, the same convolution, dense", dense_convolution(), (1, 64, 56, 56))


if __name__ == "__main__":
    main()
