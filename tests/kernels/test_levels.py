"""Levels of operators: each operator reads the level when it starts; a switch allocates nothing."""

from __future__ import annotations

import threading

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from sparse_node import DENSITIES, SparseModel, conv_node, linear_node, place, recurrent_node, session_of, tolerance

from nested_sparse.kernels.library import scratch_allocations
from nested_sparse.value_type import FLOAT16


@pytest.mark.parametrize("threads", [1, 2])
def test_switching_the_level_allocates_nothing(threads: int) -> None:
    """After one run, other levels (even never seen ones) need no new scratch and no new plan."""
    rng = np.random.default_rng(0)
    models = [
        (SparseModel([conv_node(rng, 6, 10), conv_node(rng, 10, 6, stride=(2, 2))], threads=threads), (1, 6, 30, 30)),
        (SparseModel([linear_node(rng, 40, 30)], threads=threads), (1, 40)),
        (SparseModel([linear_node(rng, 40, 30)], threads=threads), (20, 40)),
        (SparseModel([recurrent_node(rng, "NestedLSTM", 30)], threads=threads), (3, 1, 120)),
        (SparseModel([recurrent_node(rng, "NestedGRU", 30)], threads=threads), (3, 9, 90)),
        (SparseModel([conv_node(rng, 600, 4, 4, value_type=FLOAT16)], threads=threads), (1, 600, 3, 3)),
        (SparseModel([linear_node(rng, 3000, 2, 2, value_type=FLOAT16)], threads=threads), (20, 3000)),
        (SparseModel([linear_node(rng, 300, 40, 32, value_type=FLOAT16)], threads=threads), (20, 300)),
    ]
    for model, shape in models:
        x = rng.standard_normal(shape).astype(np.float32)
        model.run(x, 0)
        before = scratch_allocations()
        for level in (2, 0, 1, 2, 1, 0):
            model.run(x, level)
        assert scratch_allocations() == before


def test_weights_are_used_in_place() -> None:
    """A value written into the segment between two runs is the one the next run uses."""
    rng = np.random.default_rng(1)
    node = linear_node(rng, 16, 8)
    placed = place([node])
    model = SparseModel([node], placed)
    x = rng.standard_normal((1, 16)).astype(np.float32)
    first = model.run(x, 0)
    ptr, _, val, norm = placed.attributes[0]["offsets"][:4]
    assert ptr == 0
    placed.segments[0][val:norm].view(np.float32)[:] *= 2
    placed.segments[0][norm:].view(np.float32)[8:16] = 0
    second = model.run(x, 0)
    expected = 2 * (first - node.norms[0, 1])
    assert np.abs(second - expected).max() <= 4 * tolerance(node, 0, x)


def test_files_cut_to_fewer_levels_serve_them() -> None:
    """Empty segments for the higher levels: lower ones work, higher ones are named in an error."""
    rng = np.random.default_rng(2)
    node = conv_node(rng, 4, 8)
    placed = place([node])
    whole = SparseModel([node]).run(np.ones((1, 4, 9, 9), np.float32), 0)
    placed.segments[1:] = [np.zeros(0, np.uint8) for _ in placed.segments[1:]]
    cut = SparseModel([node], placed)
    assert np.array_equal(cut.run(np.ones((1, 4, 9, 9), np.float32), 0), whole)
    with pytest.raises(Exception, match="layer 'layer0': level 1 is not in this file"):
        cut.run(np.ones((1, 4, 9, 9), np.float32), 2)


@pytest.mark.parametrize("block_rows", [4, 32])
def test_level_lowered_during_a_run_is_obeyed_by_the_nodes_that_follow(block_rows: int) -> None:
    """A node between two of ours writes level 0 into the memory of the level cell: the second runs at level 0."""
    rng = np.random.default_rng(3)
    nodes = [linear_node(rng, 16, 12, block_rows), linear_node(rng, 12, 8, block_rows)]
    placed = place(nodes)
    names = ["level", "", *(f"segment_{index}" for index in range(len(DENSITIES)))]
    graph = helper.make_graph(
        [
            helper.make_node("NestedLinear", ["x", *names], ["y"], domain="nested_sparse", **placed.attributes[0]),
            helper.make_node("Shape", ["y"], ["shape"], end=1),
            helper.make_node("ReduceMin", ["shape"], ["rows"], keepdims=0),
            helper.make_node("Sub", ["rows", "rows_given"], ["lowered"]),
            helper.make_node("Cast", ["lowered"], ["zero"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["y", "zero"], ["same_y"]),
            helper.make_node("NestedLinear", ["same_y", *names], ["z"], domain="nested_sparse", **placed.attributes[1]),
        ],
        "lowering",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("rows_given", TensorProto.INT64, []),
            helper.make_tensor_value_info("level", TensorProto.INT64, []),
            *(helper.make_tensor_value_info(name, TensorProto.UINT8, [None]) for name in names[2:]),
        ],
        [
            helper.make_tensor_value_info("z", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("lowered", TensorProto.INT64, []),
        ],
    )
    session = session_of(graph)
    x = rng.standard_normal((3, 16)).astype(np.float32)
    cell, top = np.array(0, np.int64), len(DENSITIES) - 1
    level = ort.OrtValue.ortvalue_from_numpy(cell)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_cpu_input("rows_given", np.array(3, np.int64))
    binding.bind_ortvalue_input("level", level)
    for name, segment in zip(names[2:], placed.segments, strict=True):
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(segment))
    binding.bind_output("z")
    binding.bind_ortvalue_output("lowered", level)
    cell[...] = top
    session.run_with_iobinding(binding)
    assert cell == 0
    middle = SparseModel(nodes[:1]).run(x, top)
    expected, dense = (SparseModel(nodes[1:]).run(middle, at) for at in (0, top))
    assert np.array_equal(binding.copy_outputs_to_cpu()[0], expected)
    assert not np.array_equal(expected, dense)


def test_runs_at_different_levels_at_once() -> None:
    """One session, one weight, several threads, each with a level of its own."""
    rng = np.random.default_rng(4)
    node = conv_node(rng, 8, 20, permuted=True)
    model = SparseModel([node], threads=2)
    x = rng.standard_normal((1, 8, 20, 20)).astype(np.float32)
    expected = [model.run(x, level) for level in range(len(DENSITIES))]
    segments = {
        f"__segment_{index}__": ort.OrtValue.ortvalue_from_numpy(segment)
        for index, segment in enumerate(model.placed.segments)
    }
    wrong: list[int] = []

    def serve(level: int) -> None:
        cell = np.array(level, np.int64)
        feeds = {"X0": ort.OrtValue.ortvalue_from_numpy(x), "__level__": ort.OrtValue.ortvalue_from_numpy(cell)}
        for _ in range(50):
            y = model.session.run_with_ort_values(None, feeds | segments)[0].numpy()
            if not np.array_equal(y, expected[level]):
                wrong.append(level)

    workers = [threading.Thread(target=serve, args=(level % len(DENSITIES),)) for level in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
