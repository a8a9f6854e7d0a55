"""Denormals: numbers that count as zero while operators run, and only then. Times are in docs/decisions/027."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from sparse_node import SparseModel, SparseNode, conv_node, linear_node, tolerance

from chain import write
from nested_sparse.kernels.denormals import denormals_flushed
from nested_sparse.runtime.session.session import Session
from nested_sparse.tensor_spec import TensorSpec
from nested_sparse.value_type import FLOAT16, FLOAT32
from nested_sparse.writer import LevelRecord, write_checkpoint
from support import layer_record, random_weight

TINY = np.float32(1e-40)
SMALLEST_NORMAL = float(np.finfo(np.float32).smallest_normal)


def keeps_denormals() -> bool:
    """Whether this thread's arithmetic keeps denormals, in both widths, by numpy and by Python."""
    single = np.full(64, TINY, np.float32) * np.float32(1)
    double = np.full(64, 1e-310) * 1.0
    return bool((single == TINY).all() and (double == 1e-310).all() and math.fsum([5e-324]) * 1.0 == 5e-324)


NODES = {
    "linear": (lambda rng: linear_node(rng, 77, 37, 16), (1, 77)),
    "linear of many rows": (lambda rng: linear_node(rng, 77, 37, 4), (130, 77)),
    "convolution": (lambda rng: conv_node(rng, 8, 37, 4), (2, 8, 19, 30)),
    "depthwise": (lambda rng: conv_node(rng, 8, 8, 1, groups=8, densities=(1.0, 1.0, 1.0)), (1, 8, 20, 20)),
    "halves": (lambda rng: conv_node(rng, 8, 37, 4, value_type=FLOAT16), (1, 8, 19, 30)),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", NODES)
def test_results_are_right_to_tolerance_and_the_thread_is_as_before(case: str, threads: int) -> None:
    """Some or all inputs are denormal, and some weights are."""
    make, shape = NODES[case]
    rng = np.random.default_rng(1)
    node: SparseNode = make(rng)
    if node.value_type is FLOAT32:
        node.weight.values[rng.random(node.weight.values.shape) < 0.1] = TINY
    model = SparseModel([node], threads=threads)
    normal = rng.standard_normal(shape).astype(np.float32)
    for share in (0.05, 1.0):
        x = np.where(rng.random(shape) < share, normal * TINY, normal).astype(np.float32)
        for level in range(3):
            y = model.run(x, level)
            assert np.abs(y - node.dense(x, level)).max() <= tolerance(node, level, x) + SMALLEST_NORMAL
            assert keeps_denormals()


def test_a_result_that_would_be_denormal_is_zero() -> None:
    """The result is quick; without it each layer of such a chain would be slow."""
    node = linear_node(np.random.default_rng(2), 64, 32, densities=(1.0,))
    node.norms[:, 1] = 0
    y = SparseModel([node]).run(np.full((1, 64), TINY, np.float32), 0)
    assert np.abs(node.dense(np.full((1, 64), TINY, np.float32), 0)).max() > 0
    assert (y == 0).all()


def test_operators_that_fail_leave_the_thread_as_it_was() -> None:
    """The control is put back on every way out."""
    model = SparseModel([linear_node(np.random.default_rng(3), 16, 8)])
    with pytest.raises(Exception, match="level"):
        model.run(np.zeros((1, 16), np.float32), 7)
    assert keeps_denormals()


def test_a_thread_that_flushes_denormals_flushes_them_after_a_run() -> None:
    """A caller's own setting survives a run and applies to no other thread."""
    model = SparseModel([linear_node(np.random.default_rng(4), 16, 8)])
    with denormals_flushed():
        model.run(np.ones((1, 16), np.float32), 0)
        flushed = float((np.full(1, TINY) * np.float32(1))[0])
        with ThreadPoolExecutor(1) as other:
            assert other.submit(keeps_denormals).result(60)
    assert flushed == 0
    assert keeps_denormals()


def dense_then_ours(path: Path) -> Path:
    """x · 1 by ONNX Runtime's own operator, then our layer, with the product an output too."""
    rng = np.random.default_rng(5)
    record = layer_record(rng, random_weight(rng, "fc", 32, 32), 3)

    def graph(placements: dict) -> bytes:  # type: ignore[type-arg]
        place = placements["fc"]
        segments = [f"__segment_{level}__" for level in range(3)]
        names = ("rows", "columns", "block_rows", "index_bytes", "blocks", "offsets", "permutation_offset")
        attributes = {name: getattr(place, name) for name in names}
        nodes = [
            helper.make_node("Mul", ["input", "input"], ["squares"]),
            helper.make_node("NestedLinear", ["squares", "__level__", "", *segments], ["output"], name="fc", layer="fc",
                             domain="nested_sparse", clip_min=-np.inf, clip_max=np.inf, **attributes),
        ]  # fmt: skip
        inputs = [
            helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 32]),
            helper.make_tensor_value_info("__level__", TensorProto.INT64, []),
            *(helper.make_tensor_value_info(name, TensorProto.UINT8, [f"{name}n"]) for name in segments),
        ]
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 32]) for name in ("squares", "output")]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nested_sparse", 1)]
        made = helper.make_graph(nodes, "g", inputs, outputs)
        return bytes(helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString())

    write_checkpoint(
        path,
        graph_builder=graph,
        layers=[record],
        levels=[LevelRecord(density, 1, {}) for density in (0.2, 0.5, 0.9)],
        inputs=[TensorSpec("input", "float32", (None, 32), (1, 32))],
        outputs=[TensorSpec(name, "float32", (None, 32), (1, 32)) for name in ("squares", "output")],
    )
    return path


@pytest.mark.parametrize("threads", [1, 2])
def test_the_other_operators_of_a_graph_flush_them_too(tmp_path: Path, threads: int) -> None:
    """They do on the caller's thread and the pool's; a thread that uses the session keeps its own setting."""
    x = {"input": np.full((4096, 32), 1e-20, np.float32)}  # enough rows that all threads of the pool get some
    with Session(dense_then_ours(tmp_path / "model.safetensors"), threads=threads) as session:
        assert keeps_denormals()
        for _ in range(3):
            assert (session.run(x, 0)["squares"] == 0).all()
            assert keeps_denormals()
        session.threads = 3 - threads
        assert keeps_denormals()
        assert (session.run(x, 0)["squares"] == 0).all()
    assert keeps_denormals()


def test_a_session_without_our_operators_would_keep_them() -> None:
    """ONNX Runtime alone flushes none, so the test above shows the effect of our operators."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert (session.run(None, {"x": np.full(64, 1e-20, np.float32)})[0] > 0).all()


def test_runs_in_many_threads_leave_each_as_it_was(tmp_path: Path) -> None:
    """Threads of a server's pool serve other work afterwards."""
    rng = np.random.default_rng(6)
    path = write(tmp_path / "m.safetensors", [layer_record(rng, random_weight(rng, "fc", 32, 32), 3)], 3).path
    with Session(path, threads=2) as session, ThreadPoolExecutor(4) as pool:

        def client(number: int) -> bool:
            session.run({"input": np.full((8, 32), TINY, np.float32)}, number % 3)
            return keeps_denormals()

        assert all(pool.map(client, range(60)))
