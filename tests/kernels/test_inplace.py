"""In-place residual: the output may overwrite a residual that no other node reads, in the same memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from sparse_node import Array, SparseModel, SparseNode, conv_node, linear_node, place, session_of, tolerance


def run_shortcut(first: SparseNode, second: SparseNode, x: Array, level: int, threads: int) -> Array:
    """first(x) is both the input of `second` and, through a Neg that gives it memory of its own, its residual."""
    placed = place([first, second])
    segments = [f"segment_{index}" for index in range(len(placed.segments))]
    options: dict[str, Any] = {"domain": "nested_sparse"}
    middle = [*x.shape[:1], first.weight.rows, *x.shape[2:]] if x.ndim == 4 else [*x.shape[:-1], first.weight.rows]
    graph = helper.make_graph(
        [
            helper.make_node("NestedConv" if x.ndim == 4 else "NestedLinear", ["x", "level", "", *segments], ["y"],
                             **placed.attributes[0], **options),
            helper.make_node("Neg", ["y"], ["residual"]),
            helper.make_node(second.op, ["y", "level", "residual", *segments], ["z"],
                             **placed.attributes[1], **options),
            helper.make_node("Neg", ["z"], ["output"]),
        ],
        "shortcut",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape)),
            helper.make_tensor_value_info("level", TensorProto.INT64, []),
            *(helper.make_tensor_value_info(name, TensorProto.UINT8, [None]) for name in segments),
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
        value_info=[helper.make_tensor_value_info(name, TensorProto.FLOAT, middle) for name in ("y", "residual", "z")],
    )  # fmt: skip
    feeds = {"x": x, "level": np.array(level, np.int64), **dict(zip(segments, placed.segments, strict=True))}
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
    output: Array = session_of(graph, threads).run_with_ort_values(None, values)[0].numpy()
    return -output


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("block_rows", [1, 4, 16])
@pytest.mark.parametrize("shape", [(1, 12), (40, 12), (250, 12), (2, 12, 14, 14), (1, 12, 30, 31)])
def test_output_may_take_the_residuals_memory(shape: tuple[int, ...], block_rows: int, threads: int) -> None:
    """Linear layers of few and many rows, convolutions with whole and with dropped pixels."""
    rng = np.random.default_rng(block_rows)
    make = conv_node if len(shape) == 4 else linear_node
    first = make(rng, 12, 20, block_rows)
    for options in ({}, {"kernel": (1, 1), "pads": (0, 0, 0, 0)}) if len(shape) == 4 else ({},):
        second = make(rng, 20, 20, block_rows, permuted=True, residual=True, clip=(-2.0, 2.0), **options)
        x = rng.standard_normal(shape).astype(np.float32)
        for level in range(3):
            middle = SparseModel([first], threads=threads).run(x, level)
            expected = second.dense(middle, level, -middle)
            y = run_shortcut(first, second, x, level, threads)
            error = np.abs(y - expected).max()
            assert error <= tolerance(second, level, middle) + np.finfo(np.float32).eps * np.abs(middle).max()
