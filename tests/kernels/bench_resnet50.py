"""Times a random sparse ResNet-50 (224 x 224, batch 1) in our operators against its dense twin in ONNX Runtime.

python tests/kernels/bench_resnet50.py [--block-rows 4] [--threads 1] [--densities 0.0538 0.1338] [--layers]

Both nets have the same weights at the densest level and their outputs are compared before anything is timed. Their runs
alternate, so that other load on the machine meets both. Prints a table and one final JSON line.
"""

from __future__ import annotations

import argparse
import collections
import json
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1]))
from sparse_node import Placed, SparseNode, conv_node, place

from nested_sparse.kernels import library

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # width of the bottleneck, blocks


@dataclass(frozen=True)
class Layer:
    """A convolution of the net: its input, output, and the tensor added to it, by name."""

    node: SparseNode
    source: str
    target: str
    residual: str = ""


def resnet50(rng: np.random.Generator, block_rows: int, densities: tuple[float, ...]) -> list[Layer]:
    """The net's convolutions in order; batch norm, ReLU and residual adds are in them."""
    layers: list[Layer] = []

    def add(
        channels: int, rows: int, kernel: int, stride: int, source: str, residual: str = "", relu: bool = True
    ) -> str:
        pads = (kernel // 2,) * 4
        clip = (0.0, np.inf) if relu else (-np.inf, np.inf)
        node = conv_node(
            rng, channels, rows, block_rows, kernel=(kernel, kernel), stride=(stride, stride), pads=pads, clip=clip,
            densities=densities, residual=bool(residual),
        )  # fmt: skip
        node.norms[:] = np.array([(densities[-1] * node.weight.columns) ** -0.5, 0.1])[None, :, None]
        layers.append(Layer(node, source, f"y{len(layers)}", residual))
        return layers[-1].target

    add(3, 64, 7, 2, "input")
    source, channels = "pooled", 64
    for stage, (width, blocks) in enumerate(STAGES):
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 0 else 1
            shortcut = add(channels, 4 * width, 1, stride, source, relu=False) if block == 0 else source
            inner = add(width, width, 3, stride, add(channels, width, 1, 1, source))
            source, channels = add(width, 4 * width, 1, 1, inner, shortcut), 4 * width
    return layers


def sides(layers: list[Layer]) -> list[int]:
    """Height and width of each layer's output; ONNX Runtime reuses a residual's memory where it knows the shapes."""
    known = {"input": 224, "pooled": 56}
    for layer in layers:
        known[layer.target] = known[layer.source] // layer.node.window["strides"][0]
    return [known[layer.target] for layer in layers]


def graph(layers: list[Layer], placed: Placed | None) -> bytes:
    """The net in our operators, or the dense twin (densest level) where `placed` is None."""
    nodes, initializers = [], []
    for index, layer in enumerate(layers):
        if placed is not None:
            segments = [f"segment_{level}" for level in range(len(placed.segments))]
            names = [layer.source, "level", layer.residual, *segments]
            private = {layer.target for layer in layers[:-1]} | {"pooled"}
            tiled = {
                "x_tiled": int(layer.source in private),
                "residual_tiled": int(layer.residual in private),
                "y_tiled": int(layer.target in private),
            }
            attributes = placed.attributes[index] | tiled
            nodes.append(helper.make_node("NestedConv", names, [layer.target], domain="nested_sparse", **attributes))
        else:
            initializers += dense_tensors(layer, index)
            nodes += dense_nodes(layer, index)
        if index == 0:
            window: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
            if placed is not None:
                window |= {"dilations": [1, 1], "domain": "nested_sparse"}
            name = "MaxPool" if placed is None else "TiledMaxPool"
            nodes.append(helper.make_node(name, [layer.target], ["pooled"], **window))
    nodes.append(helper.make_node("GlobalAveragePool", [layers[-1].target], ["output"]))
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 224, 224])]
    if placed is not None:
        inputs.append(helper.make_tensor_value_info("level", TensorProto.INT64, []))
        inputs += [helper.make_tensor_value_info(name, TensorProto.UINT8, [f"{name}_n"]) for name in segments]
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 2048, 1, 1])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nested_sparse", 1)]
    shapes = [
        helper.make_tensor_value_info(
            layer.target,
            TensorProto.FLOAT,
            [1, layer.node.weight.rows, side, side]
            if placed is None or index == len(layers) - 1
            else [f"tiled_{layer.node.weight.rows}_{side}"],
        )
        for index, (layer, side) in enumerate(zip(layers, sides(layers), strict=True))
    ]
    made: onnx.ModelProto = helper.make_model(
        helper.make_graph(nodes, "resnet50", inputs, outputs, initializers, value_info=shapes),
        opset_imports=opsets,
        ir_version=8,
    )
    serialized: bytes = made.SerializeToString()
    return serialized


def dense_tensors(layer: Layer, index: int) -> list[onnx.TensorProto]:
    """Weight and bias with scale and shift folded in."""
    weight, norms = layer.node.weight, layer.node.norms
    window = layer.node.window["kernel_shape"]
    scaled = weight.at(len(norms) - 1) * norms[-1, 0][:, None]
    shaped = scaled.reshape(weight.rows, -1, *window)
    return [numpy_helper.from_array(shaped, f"w{index}"), numpy_helper.from_array(norms[-1, 1], f"b{index}")]


def dense_nodes(layer: Layer, index: int) -> list[onnx.NodeProto]:
    """Convolution, residual add and ReLU as an exporter leaves them for ONNX Runtime to fuse."""
    steps = ["Conv", *(["Add"] if layer.residual else []), *(["Relu"] if layer.node.clip[0] == 0 else [])]
    nodes, source = [], layer.source
    for step, op in enumerate(steps):
        target = layer.target if step == len(steps) - 1 else f"{layer.target}_{step}"
        names = {"Conv": [source, f"w{index}", f"b{index}"], "Add": [source, layer.residual], "Relu": [source]}[op]
        window = dict(layer.node.window) if op == "Conv" else {}
        nodes.append(helper.make_node(op, names, [target], **window))
        source = target
    return nodes


def session(model: bytes, threads: int, profile: bool = False) -> ort.InferenceSession:
    """A session of the model."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.enable_profiling = profile
    if profile:
        options.profile_file_prefix = str(Path(tempfile.gettempdir()) / "bench_resnet50")
    library.register(options)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def layer_table(layers: list[Layer], model: bytes, feeds: dict[str, ort.OrtValue], threads: int, level: int) -> None:
    """Prints what each kind of layer took, by ONNX Runtime's profiler."""
    profiled = session(model, threads, profile=True)
    for _ in range(25):
        profiled.run_with_ort_values(None, feeds)
    events = json.loads(Path(profiled.end_profiling()).read_text())
    taken = collections.defaultdict(list)
    kernels = [event for event in events if event["name"].endswith("_kernel_time")]
    for event in kernels:
        taken[event["args"]["node_index"], event["args"]["op_name"]].append(event["dur"])
    convolutions = sorted(int(index) for index, op in taken if op == "NestedConv")
    grouped: dict[Any, list[float]] = collections.defaultdict(lambda: [0, 0, 0])
    for index, layer, side in zip(convolutions, layers, sides(layers), strict=True):
        weight, window = layer.node.weight, layer.node.window
        row = grouped[
            window["kernel_shape"][0], window["strides"][0], weight.columns, weight.rows, side, layer.node.residual
        ]
        milliseconds = float(np.min(taken[str(index), "NestedConv"])) / 1e3
        row[:] = row[0] + milliseconds, row[1] + 2 * weight.nnz(level) * side**2 / 1e6, row[2] + 1
    others = sum(float(np.min(value)) / 1e3 for (_, op), value in taken.items() if op != "NestedConv")
    for (kernel, stride, columns, rows, side, add), (milliseconds, megaflop, count) in grouped.items():
        what = f"{kernel}x{kernel}/{stride} {columns:5d} -> {rows:4d} at {side:3d}{' +' if add else '  '} x{count}"
        print(f"  {what}  {milliseconds:7.3f} ms {megaflop / milliseconds:6.1f} GFLOP/s")
    total = sum(row[0] for row in grouped.values())
    speed = sum(row[1] for row in grouped.values()) / total
    print(f"  convolutions {total:.2f} ms, {speed:.1f} GFLOP/s; others {others:.2f} ms")


def main() -> None:
    """Build, compare, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--block-rows", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.0538, 0.1338])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--layers", action="store_true", help="also print a table per kind of layer")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    layers = resnet50(rng, args.block_rows, tuple(args.densities))
    placed = place([layer.node for layer in layers])
    model = graph(layers, placed)
    sparse, dense = session(model, args.threads), session(graph(layers, None), args.threads)
    x = rng.standard_normal((1, 3, 224, 224)).astype(np.float32)
    level = np.array(len(args.densities) - 1, np.int64)
    arrays = {"input": x, "level": level, **{f"segment_{index}": s for index, s in enumerate(placed.segments)}}
    feeds = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
    expected = dense.run(None, {"input": x})[0]
    worst = float(np.abs(sparse.run_with_ort_values(None, feeds)[0].numpy() - expected).max() / np.abs(expected).max())
    if not worst < 1e-3:
        raise SystemExit(f"the nets disagree: {worst}")

    samples: dict[str, list[float]] = collections.defaultdict(list)
    for repeat in range(args.repeats + 3):
        for index, density in enumerate([*args.densities, 1.0]):
            level[...] = min(index, len(args.densities) - 1)
            begin = time.perf_counter()
            if density == 1.0:
                dense.run(None, {"input": x})
            else:
                sparse.run_with_ort_values(None, feeds)
            if repeat >= 3:
                samples[f"{density:g}"].append((time.perf_counter() - begin) * 1e3)
    print(f"{'density':>8} {'median ms':>10} {'best ms':>8}")
    for name, values in samples.items():
        print(f"{name:>8} {np.median(values):10.2f} {min(values):8.2f}")
    for index, density in enumerate(args.densities if args.layers else []):
        level[...] = index
        print(f"density {density:g}, kernel {library.kernel_for('conv', args.block_rows)}")
        layer_table(layers, model, feeds, args.threads, index)
    facts = {"isa": library.isa(), "threads": args.threads, "block_rows": args.block_rows, "cpu": platform.processor()}
    print(json.dumps({**facts, "worst_relative_error": worst, "samples_ms": samples}))


if __name__ == "__main__":
    main()
