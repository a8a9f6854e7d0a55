"""Int8 file: a checkpoint by hand whose graph has every int8 operator once, between images and a linear layer."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper

from nested_sparse.placement import LayerPlacement
from nested_sparse.tensor_spec import TensorSpec
from nested_sparse.value_type import INT8
from nested_sparse.writer import LevelRecord, write_checkpoint
from support import layer_record, random_weight

LEVELS = 2
WINDOW = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1]}
OUTPUT = {"y_scale": [0.5, 0.25], "y_zero": [3, 255], "y_border": 0, "y_gap": 0}
OPEN = {"clip_min": float("-inf"), "clip_max": float("inf")}
TABLE = {"table": bytes(range(256)) * LEVELS, "sum_scale": [1.0, 2.0], "sum_zero": [0, 128]}


def write_int8(path: Path, **changes: dict[str, Any]) -> Path:
    """An image through every int8 operator; changes: attributes by operator, None to leave one out."""
    rng = np.random.default_rng(0)
    conv = replace(layer_record(rng, random_weight(rng, "conv", 8, 4), LEVELS, "conv"), value_type=INT8)
    conv = replace(conv, attributes=WINDOW, sqnr_db=(30.25, 33.0))
    linear = replace(layer_record(rng, random_weight(rng, "linear", 5, 8, 1), LEVELS), value_type=INT8)
    segments = [f"__segment_{level}__" for level in range(LEVELS)]

    def build(placements: dict[str, LayerPlacement]) -> bytes:
        def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
            given = {**attributes, **changes.get(operator, {})}
            kept = {name: value for name, value in given.items() if value is not None}
            made: NodeProto = helper.make_node(
                operator, inputs, [output], name=str(attributes.get("layer", "")), domain="nested_sparse"
            )
            made.attribute.extend(
                value if isinstance(value, AttributeProto) else helper.make_attribute(name, value)
                for name, value in kept.items()
            )
            return made

        def placed(layer: str) -> dict[str, Any]:
            return {"layer": layer, **OPEN, **asdict(placements[layer])}

        level = "__level__"
        nodes = [
            node("QuantizeImage", ["input", level], "u8", **OUTPUT),
            node("QuantizedConv", ["u8", level, "", *segments], "a", **WINDOW, **OUTPUT, **TABLE, **placed("conv")),
            node("QuantizedMaxPool", ["a"], "b", **WINDOW, y_border=1, y_gap=1),
            node("QuantizedAveragePool", ["b"], "c", **WINDOW, y_border=0, y_gap=0, count_include_pad=1),
            node("QuantizedAdd", ["a", "c", level], "d", **OPEN, **OUTPUT),
            node("QuantizedGlobalAveragePool", ["d"], "means"),
            node("QuantizedMultiply", ["d", "means", level], "e", **OPEN, **OUTPUT),
            node("DequantizeImage", ["e"], "f"),
            helper.make_node("GlobalAveragePool", ["f"], ["g"]),
            helper.make_node("Flatten", ["g"], ["h"]),
            node(
                "QuantizedLinear",
                ["h", level, "", *segments],
                "output",
                activations="static",
                x_scale=[0.5, 0.25],
                x_zero=[1, 2],
                **placed("linear"),
            ),
        ]
        inputs = [
            helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 4, "H", "W"]),
            helper.make_tensor_value_info(level, TensorProto.INT64, []),
            *(helper.make_tensor_value_info(name, TensorProto.UINT8, [f"{name}n"]) for name in segments),
        ]
        outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 5])]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nested_sparse", 1)]
        graph = helper.make_graph(nodes, "int8", inputs, outputs)
        return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())

    write_checkpoint(
        path,
        graph_builder=build,
        layers=[conv, linear],
        levels=[LevelRecord(density, 1, {}) for density in (0.2, 0.5)],
        inputs=[TensorSpec("input", "float32", (None, 4, None, None), (1, 4, 5, 5))],
        outputs=[TensorSpec("output", "float32", (None, 5), (1, 5))],
    )
    return path
