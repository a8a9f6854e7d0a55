"""Chains: checkpoints whose graph is a chain of nested linear layers, and the same computation in numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from nested_sparse.free_size import FreeSize
from nested_sparse.layouts import Blocks
from nested_sparse.placement import LayerPlacement
from nested_sparse.reroute import Reroute
from nested_sparse.tensor_spec import TensorSpec
from nested_sparse.weight import NestedWeight
from nested_sparse.writer import LayerRecord, LevelRecord, write_checkpoint
from support import layer_record, random_weight


def linear_chain(
    records: Sequence[LayerRecord],
    levels: int,
    batch: int | None = None,
    ends: tuple[str, str] = ("input", "output"),
    length: FreeSize | None = None,
) -> Callable[..., bytes]:
    """Builder of a graph of NestedLinear layers with ReLU between, by hand; a record may come more than once.

    ends: names of its input and output. length: the free size of a dimension behind the batch, which has two then.
    """

    def build(placements: dict[str, LayerPlacement]) -> bytes:
        segments = [f"__segment_{level}__" for level in range(levels)]
        nodes, source = [], ends[0]
        for index, record in enumerate(records):
            use = sum(earlier is record for earlier in records[:index])
            place = placements[record.weight.name]
            last = index == len(records) - 1
            target = ends[1] if last else f"hidden{index}"
            nodes.append(
                helper.make_node(
                    "NestedLinear",
                    [source, "__level__", "", *segments],
                    [target],
                    name=f"{record.weight.name}.{use}" if use else record.weight.name,
                    domain="nested_sparse",
                    layer=record.weight.name,
                    rows=place.rows,
                    columns=place.columns,
                    block_rows=place.block_rows,
                    index_bytes=place.index_bytes,
                    blocks=place.blocks,
                    offsets=place.offsets,
                    permutation_offset=place.permutation_offset,
                    clip_min=-np.inf if last else 0.0,
                    clip_max=np.inf,
                )
            )
            source = target
        first, final = records[0].weight.columns, records[-1].weight.rows
        size: Any = [batch or "N", *([length.name] if length else [])]
        inputs = [
            helper.make_tensor_value_info(ends[0], TensorProto.FLOAT, [*size, first]),
            helper.make_tensor_value_info("__level__", TensorProto.INT64, []),
            *(helper.make_tensor_value_info(name, TensorProto.UINT8, [f"{name}n"]) for name in segments),
        ]
        outputs = [helper.make_tensor_value_info(ends[1], TensorProto.FLOAT, [*size, final])]
        graph = helper.make_graph(nodes, "chain", inputs, outputs)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nested_sparse", 1)]
        model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        serialized: bytes = model.SerializeToString()
        return serialized

    return build


@dataclass
class Written:
    """A checkpoint on disk, and what was written into it: the records in the order they run."""

    path: Path
    records: list[LayerRecord]

    def reference(self, x: np.ndarray, level: int | Sequence[int]) -> np.ndarray:
        """The chain in numpy, float64; at one level, or each layer at its own."""
        y = x.astype(np.float64)
        levels = [level] * len(self.records) if isinstance(level, int) else level
        for index, (record, each) in enumerate(zip(self.records, levels, strict=True)):
            scale, shift = record.norms[each].astype(np.float64)
            y = y @ record.weight.at(each).astype(np.float64).T * scale + shift
            if index < len(self.records) - 1:
                y = np.maximum(y, 0)
        return y


def write(
    path: Path,
    records: list[LayerRecord],
    levels: int,
    graph: Any = None,
    batch: int | None = None,
    reroutes: Sequence[Reroute] = (),
    length: FreeSize | None = None,
) -> Written:
    """A checkpoint of the chain; level i has the accuracy 0.9 + i / 100."""

    def spec(name: str, width: int) -> TensorSpec:
        if length is None:
            return TensorSpec(name, "float32", (batch, width), (batch or 1, width))
        example = (1, length.nearest(8), width)
        return TensorSpec(name, "float32", (None, None, width), example, (FreeSize("N", batch=True), length, None))

    first, final = records[0].weight.columns, records[-1].weight.rows
    write_checkpoint(
        path,
        graph_builder=graph or linear_chain(records, levels, batch, length=length),
        layers=list({record.weight.name: record for record in records}.values()),
        levels=[LevelRecord((i + 1) / levels, 1000 * (i + 1), {"accuracy": 0.9 + i / 100}) for i in range(levels)],
        inputs=[spec("input", first)],
        outputs=[spec("output", final)],
        reroutes=reroutes,
    )
    return Written(path, records)


def counting_chain(path: Path, layers: int, width: int, levels: int = 2, reroutes: Sequence[Reroute] = ()) -> Written:
    """Counting layers: the output is x and the sum of the levels that they ran at."""
    records = [counting_layer(f"layer{index}", width, levels) for index in range(layers)]
    return write(path, records, levels, reroutes=reroutes)


def small_chain(path: Path, **options: Any) -> Written:
    """A chain of three small layers, blocks of 4, 2 and 1 rows, with three levels. options: as of `write`."""
    rng = np.random.default_rng(3)
    weights = [
        random_weight(rng, "first", 13, 24, block_rows=4),
        random_weight(rng, "second", 16, 13, block_rows=2, permuted=True),
        random_weight(rng, "third", 5, 16, block_rows=1),
    ]
    return write(path, [layer_record(rng, weight, 3) for weight in weights], 3, **options)


def small_inputs(columns: int = 24, batch: int = 3) -> dict[str, np.ndarray]:
    """Random inputs (batch, columns), float32, equal in every call."""
    return {"input": np.random.default_rng(batch).standard_normal((batch, columns)).astype(np.float32)}


def counting_layer(name: str, width: int, levels: int) -> LayerRecord:
    """A layer that keeps x and adds the level that it runs at; each level adds one weight, of the value 0."""
    first_level = np.where(np.eye(width), 0, 255).astype(np.uint8)
    for level in range(1, levels):
        first_level[0, level] = level
    norms = np.stack([np.stack([np.ones(width), np.full(width, level)]) for level in range(levels)])
    weight = NestedWeight(name, np.eye(width, dtype=np.float32), first_level, Blocks(1), None)
    return LayerRecord(weight, norms.astype(np.float32), "linear", {})
