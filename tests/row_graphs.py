"""Row graphs: checkpoints of one nested linear layer and given ONNX nodes, to test the dependence of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from chain import linear_chain
from nested_sparse.tensor_spec import TensorSpec
from nested_sparse.writer import LayerRecord, LevelRecord, write_checkpoint
from support import random_weight

IN, WIDTH = 6, 8
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
DTYPES = {FLOAT: "float32", INT64: "int64", BOOL: "bool"}
node = helper.make_node


def write_rows(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Any] | None = None,
    *,
    outputs: Mapping[str, tuple[int, tuple[int | None, ...]]] | None = None,
    ids: tuple[int, ...] | None = None,
    rows: str | None = None,
    seed: int = 0,
) -> Path:
    """A file of two levels whose layer gives `z` (N, WIDTH) and whose `nodes` make "output" of it.

    outputs: dtype and shape by name. ids: shape behind the batch of a second input of int64.
    """
    rng = np.random.default_rng(seed)
    weight = random_weight(rng, "layer", WIDTH, IN, block_rows=1, densities=(0.5, 0.9))
    norms = np.stack([np.stack([np.ones(WIDTH), rng.standard_normal(WIDTH)]) for _ in range(2)])
    record = LayerRecord(weight, norms.astype(np.float32), "linear", {})
    shapes = outputs or {"output": (FLOAT, (None, WIDTH))}
    inputs = [TensorSpec("input", "float32", (None, IN), (2, IN))]
    if ids is not None:
        inputs.append(TensorSpec("ids", "int64", (None, *ids), (2, *ids)))

    def build(placements: Any) -> bytes:
        model = onnx.load_model_from_string(linear_chain([record], 2)(placements))
        graph = model.graph
        graph.node[0].output[0] = "z"
        graph.node.extend(nodes)
        graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()
        )
        if ids is not None:
            graph.input.append(helper.make_tensor_value_info("ids", INT64, ["N", *ids]))
        del graph.output[:]
        for name, (dtype, shape) in shapes.items():
            graph.output.append(helper.make_tensor_value_info(name, dtype, [size or "N" for size in shape]))
        raw: bytes = model.SerializeToString()
        return raw

    write_checkpoint(
        path,
        graph_builder=build,
        layers=[record],
        levels=[LevelRecord(density, 100, {}) for density in (0.5, 0.9)],
        inputs=inputs,
        outputs=[
            TensorSpec(name, DTYPES[dtype], shape, tuple(size or 2 for size in shape))
            for name, (dtype, shape) in shapes.items()
        ],
        rows=rows,
        force=True,
    )
    return path
