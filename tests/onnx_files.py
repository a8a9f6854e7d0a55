"""ONNX files: models in the forms that exporters write, made with onnx.helper, and ONNX Runtime's answers to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(np.float32)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[Any]],
    outputs: Mapping[str, Sequence[Any]],
    constants: Mapping[str, Array],
    *,
    opset: int = 18,
    domains: Mapping[str, int] | None = None,
    integers: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model with inputs and outputs of these shapes, float32 but for `integers`, which are int64."""

    def infos(shapes: Mapping[str, Sequence[Any]]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, TensorProto.INT64 if name in integers else TensorProto.FLOAT, shape)
            for name, shape in shapes.items()
        ]

    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "g", infos(inputs), infos(outputs), initializers)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(*each) for each in (domains or {}).items())]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def torch_cnn(batch: Any = "N", *, opset: int = 18, zeros: float = 0.0) -> onnx.ModelProto:
    """Convolutions (strided, grouped, uneven pads), a residual, pooling, Gemm: names as torch's exporters give them.

    zeros: share of each weight that is exactly zero.
    """
    constants = {
        "conv1.weight": random(12, 3, 3, 3, scale=0.3),
        "conv1.bias": random(12, seed=1),
        "onnx::Conv_31": random(16, 12, 3, 3, scale=0.15),
        "onnx::Conv_32": random(16, seed=2),
        "conv3.weight": random(16, 4, 3, 3, scale=0.2),
        "fc.weight": random(7, 16, scale=0.3),
        "fc.bias": random(7, seed=3),
    }
    for name in ("conv1.weight", "onnx::Conv_31", "conv3.weight", "fc.weight"):
        size = constants[name].size
        order = np.random.default_rng(len(name)).permutation(size)[: round(zeros * size)]
        constants[name].reshape(-1)[order] = 0
    window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["input", "conv1.weight", "conv1.bias"], ["c1"], "/conv1/Conv", **window),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node(
            "Conv",
            ["r1", "onnx::Conv_31", "onnx::Conv_32"],
            ["c2"],
            "/layer1/layer1.0/conv/Conv",
            kernel_shape=[3, 3],
            pads=[0, 0, 1, 1],
            strides=[2, 2],
        ),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "conv3.weight"], ["c3"], "/conv3/Conv", group=4, **window),
        helper.make_node("Add", ["c3", "r2"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"], axis=1),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["output"], "/fc/Gemm", transB=1),
    ]
    return model_of(nodes, {"input": [batch, 3, 11, 10]}, {"output": [batch, 7]}, constants, opset=opset)


def keras_dense(*, opset: int = 13) -> onnx.ModelProto:
    """A Keras model as tf2onnx writes it: MatMul and Add, a Transpose to NCHW, sizes without names."""
    constants = {
        "StatefulPartitionedCall/model/conv/Conv2D/ReadVariableOp:0": random(8, 3, 3, 3, scale=0.3),
        "StatefulPartitionedCall/model/dense/MatMul/ReadVariableOp:0": random(8, 20, scale=0.4),
        "StatefulPartitionedCall/model/dense/BiasAdd/ReadVariableOp:0": random(20, seed=4),
        "StatefulPartitionedCall/model/dense_1/MatMul/ReadVariableOp:0": random(20, 5, scale=0.4),
        "axes": np.array([2, 3], np.int64),
    }
    conv, dense, bias, dense_1, _ = constants
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "Conv",
            ["t", conv],
            ["c"],
            "StatefulPartitionedCall/model/conv/Conv2D",
            auto_pad="SAME_UPPER",
            strides=[2, 2],
            kernel_shape=[3, 3],
        ),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("ReduceMean", ["r"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["m", dense], ["d"], "StatefulPartitionedCall/model/dense/MatMul"),
        helper.make_node("Add", ["d", bias], ["b"]),
        helper.make_node("Tanh", ["b"], ["h"]),
        helper.make_node("MatMul", ["h", dense_1], ["l"], "StatefulPartitionedCall/model/dense_1/MatMul"),
        helper.make_node("Softmax", ["l"], ["dense_1"], axis=1),
    ]
    del constants["axes"]
    return model_of(nodes, {"x": [None, 12, 12, 3]}, {"dense_1": [None, 5]}, constants, opset=opset)


def learned_mlp() -> onnx.ModelProto:
    """scikit-learn's MLPClassifier behind a StandardScaler, as skl2onnx writes it, with a ZipMap."""
    constants = {
        "coefficient": random(6, 30, scale=0.5),
        "intercepts": random(1, 30, seed=5),
        "coefficient1": random(30, 4, scale=0.4),
        "intercepts1": random(1, 4, seed=6),
        "classes": np.array([3, 5, 7, 9], np.int64),
        "shape_tensor": np.array([-1], np.int64),
    }
    nodes = [
        helper.make_node(
            "Scaler", ["X"], ["variable"], domain="ai.onnx.ml", offset=[0.5] * 6, scale=[2, 1, 1, 0.5, 1, 1.0]
        ),
        helper.make_node("MatMul", ["variable", "coefficient"], ["mul_result"], "MatMul"),
        helper.make_node("Add", ["mul_result", "intercepts"], ["add_result"], "Add"),
        helper.make_node("Relu", ["add_result"], ["next_activations"]),
        helper.make_node("MatMul", ["next_activations", "coefficient1"], ["mul_result1"], "MatMul1"),
        helper.make_node("Add", ["mul_result1", "intercepts1"], ["add_result1"], "Add1"),
        helper.make_node("Softmax", ["add_result1"], ["out_activations"], axis=1),
        helper.make_node("ArgMax", ["out_activations"], ["argmax"], axis=1),
        helper.make_node("ArrayFeatureExtractor", ["classes", "argmax"], ["picked"], domain="ai.onnx.ml"),
        helper.make_node("Reshape", ["picked", "shape_tensor"], ["label"]),
        helper.make_node(
            "ZipMap", ["out_activations"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[3, 5, 7, 9]
        ),
    ]
    model = model_of(
        nodes,
        {"X": [None, 6]},
        {"label": [None], "probabilities": []},
        constants,
        opset=15,
        domains={"ai.onnx.ml": 1},
        integers=["label"],
    )
    model.graph.output[1].type.CopyFrom(
        helper.make_sequence_type_proto(
            helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        )
    )
    return model


def close(got: Array, expected: Array) -> None:
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    largest = float(np.abs(expected).max())
    assert float(np.abs(got.astype(np.float64) - expected).max()) <= 1e-4 * largest


def saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def answers(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Any]:
    """ONNX Runtime's answer."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def with_constants(model: onnx.ModelProto, constants: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy with other values of some constants; a new one is added."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for name, array in constants.items():
        tensor = numpy_helper.from_array(np.ascontiguousarray(array, dtype=np.float32), name)
        place = next((index for index, each in enumerate(changed.graph.initializer) if each.name == name), None)
        if place is None:
            changed.graph.initializer.append(tensor)
        else:
            changed.graph.initializer[place].CopyFrom(tensor)
    return changed


def recurrent(kind: str, directions: int, *, state: bool = True, batch: Any = "N", steps: Any = 5) -> onnx.ModelProto:
    """An LSTM or GRU over [T, N, 6], torch's transposes around it, and a linear layer behind, with its states."""
    gates, hidden = (4 if kind == "LSTM" else 3), 8
    constants = {
        "W": random(directions, gates * hidden, 6, scale=0.4),
        "R": random(directions, gates * hidden, hidden, seed=1, scale=0.4),
        "B": random(directions, 2 * gates * hidden, seed=2, scale=0.3),
        "proj": random(directions * hidden, 5, seed=3, scale=0.4),
        "flat": np.array([0, 0, -1], np.int64),
    }
    names = ["h0", "c0"][: 2 if kind == "LSTM" else 1]
    ends = ["hn", "cn"][: len(names)]
    attributes: dict[str, Any] = {"hidden_size": hidden}
    if directions == 2:
        attributes["direction"] = "bidirectional"
    if kind == "GRU":
        attributes["linear_before_reset"] = 1
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node(
            kind, ["t", "W", "R", "B", "", *(names if state else [])], ["y", *ends], f"/rnn/{kind}", **attributes
        ),
        helper.make_node("Transpose", ["y"], ["s"], perm=[2, 0, 1, 3]),
        helper.make_node("Reshape", ["s", "flat"], ["f"]),
        helper.make_node("MatMul", ["f", "proj"], ["output"], "/proj/MatMul"),
    ]
    inputs: dict[str, Sequence[Any]] = {"x": [batch, steps, 6]}
    inputs |= {name: [directions, batch, hidden] for name in names if state}
    outputs: dict[str, Sequence[Any]] = {"output": [batch, steps, 5]}
    outputs |= {name: [directions, batch, hidden] for name in ends}
    return model_of(nodes, inputs, outputs, constants)


def quantised_cnn() -> onnx.ModelProto:
    """QuantizeLinear and DequantizeLinear as ONNX Runtime's static quantiser puts them; a Relu is left to the clamp."""
    float_weight = random(8, 3, 3, 3, scale=0.3)
    scale = (np.abs(float_weight).max(axis=(1, 2, 3)) / 127).astype(np.float32)
    constants = {
        "w": np.rint(float_weight / scale[:, None, None, None]).astype(np.int8),
        "w_scale": scale,
        "w_zero": np.zeros(8, np.int8),
        "b": np.array([5, -3, 0, 20, 7, -9, 1, 2], np.int32),
        "b_scale": (scale * 0.04).astype(np.float32),
        "b_zero": np.zeros(8, np.int32),
        "fc": random(8, 6, scale=0.4),
        "fc_scale": np.float32(0.01),
        "fc_zero": np.int8(0),
        "x_scale": np.float32(0.04),
        "x_zero": np.uint8(128),
        "r_scale": np.float32(0.02),
        "r_zero": np.uint8(0),  # no negative value passes
    }

    def pair(value: str, of: str, where: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("QuantizeLinear", [value, f"{of}_scale", f"{of}_zero"], [f"{value}_q"]),
            helper.make_node("DequantizeLinear", [f"{value}_q", f"{of}_scale", f"{of}_zero"], [where]),
        ]

    nodes = [
        *pair("x", "x", "x_d"),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_d"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "b_scale", "b_zero"], ["b_d"], axis=0),
        helper.make_node("Conv", ["x_d", "w_d", "b_d"], ["c"], "/conv/Conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        *pair("c", "r", "c_d"),
        helper.make_node("GlobalAveragePool", ["c_d"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        *pair("fc", "fc", "fc_d"),
        helper.make_node("MatMul", ["f", "fc_d"], ["output"], "/fc/MatMul"),
    ]
    return model_of(nodes, {"x": ["N", 3, 8, 8]}, {"output": ["N", 6]}, constants)


def transposed(spatial: int, pads: Sequence[int], more: int) -> onnx.ModelProto:
    """A ConvTranspose of stride 2, and a convolution behind it."""
    constants = {
        "up.weight": random(6, 5, *[3] * spatial, scale=0.3),
        "up.bias": random(5, seed=1),
        "end.weight": random(4, 5, *[3] * spatial, scale=0.2),
    }
    nodes = [
        helper.make_node(
            "ConvTranspose",
            ["x", "up.weight", "up.bias"],
            ["u"],
            "/up/ConvTranspose",
            strides=[2] * spatial,
            pads=list(pads),
            output_padding=[more] * spatial,
        ),
        helper.make_node("Relu", ["u"], ["r"]),
        helper.make_node("Conv", ["r", "end.weight"], ["output"], "/end/Conv", auto_pad="SAME_LOWER"),
    ]
    return model_of(nodes, {"x": ["N", 6, *[7] * spatial]}, {"output": ["N", 4, *[None] * spatial]}, constants)


def attention() -> onnx.ModelProto:
    """One head of attention over [N, 6, 8]: four products with constants, one without a bias, and two without."""
    constants = {name: random(8, 8, seed=place, scale=0.4) for place, name in enumerate(("q", "k", "v", "o"))}
    constants |= {f"{name}.bias": random(8, seed=9 + place) for place, name in enumerate(("q", "k", "v"))}
    constants["table"] = random(6, 8, seed=20)  # positions
    nodes = [helper.make_node("Add", ["x", "table"], ["given"])]
    for name in ("q", "k", "v"):
        nodes.append(helper.make_node("MatMul", ["given", name], [f"{name}_p"], f"{name}/MatMul"))
        nodes.append(helper.make_node("Add", [f"{name}.bias", f"{name}_p"], [f"{name}_b"]))
    nodes += [
        helper.make_node("Transpose", ["k_b"], ["k_t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q_b", "k_t"], ["s"], "scores/MatMul"),
        helper.make_node("Softmax", ["s"], ["w"], axis=-1),
        helper.make_node("MatMul", ["w", "v_b"], ["m"], "mix/MatMul"),
        helper.make_node("MatMul", ["m", "o"], ["output"], "o/MatMul"),
    ]
    return model_of(nodes, {"x": ["N", 6, 8]}, {"output": ["N", 6, 8]}, constants)
