"""Odd files: messages of nest_onnx on files that it refuses, with the next step, and rare forms that it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_files import answers, close, model_of, random, saved, torch_cnn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import NestedSparseError, PatternError
from nested_sparse.runtime import Session
from nested_sparse.trainer import nest_onnx

X = random(8, 6)


def typed(dtype: Any, kind: int) -> onnx.ModelProto:
    """x [N, 6] by a weight, both of `dtype`."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["output"], "fc/MatMul")]
    model = model_of(nodes, {"x": ["N", 6]}, {"output": ["N", 5]}, {"w": random(6, 5).astype(dtype)})
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.elem_type = kind
    return model


def whole_numbers() -> onnx.ModelProto:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["m"], "fc/MatMulInteger"),
        helper.make_node("Cast", ["m"], ["output"], to=TensorProto.FLOAT),
    ]
    return model_of(nodes, {"x": ["N", 6]}, {"output": ["N", 5]}, {"w": np.ones((6, 5), np.int8)})


def vector() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["output"], "fc/MatMul")]
    return model_of(nodes, {"x": ["N", 6]}, {"output": ["N"]}, {"w": random(6)})


def baked() -> onnx.ModelProto:
    """A Reshape to one sample behind a free batch, as tracers leave it."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["output"], "fc/MatMul"),
    ]
    constants = {"shape": np.array([1, 6]), "w": random(6, 5)}
    return model_of(nodes, {"x": ["N", 2, 3]}, {"output": ["N", 5]}, constants)


def looped() -> onnx.ModelProto:
    """x by a weight in the body of a Loop of one step."""
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Identity", ["go"], ["more"])],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("more", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("Loop", ["count", "start"], ["all"], body=body),
        helper.make_node("Squeeze", ["all", "axes"], ["output"]),
    ]
    constants = {"count": np.array(1), "start": np.array(True), "axes": np.array([0]), "w": random(6, 5)}
    return model_of(nodes, {"x": ["N", 6]}, {"output": ["N", 5]}, constants)


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        (typed(np.float16, TensorProto.FLOAT16), X.astype(np.float16), ["w: MatMul: it computes in float16"]),
        (typed(np.float64, TensorProto.DOUBLE), X.astype(np.float64), ["w: MatMul: it computes in float64"]),
        (whole_numbers(), X, ["fc/MatMulInteger: MatMulInteger computes in whole numbers", "QDQ"]),
        (looped(), X, ["w: MatMul reads it in a branch or a loop"]),
        (vector(), X, ["w: MatMul: its weight has the shape [6]"]),
    ],
)
def test_files_without_layers_name_their_nodes(model: Any, data: Any, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(NestedSparseError) as caught:
        nest_onnx(saved(model, tmp_path / "m.onnx"), {"x": data}, tmp_path / "m.safetensors", densities=(0.5,))
    assert all(word in str(caught.value) for word in ["m.onnx has no Conv, ", "LSTM or GRU", *words]), caught.value


@pytest.mark.parametrize("count", [1, 6])
def test_a_size_that_is_free_only_in_name(count: int, tmp_path: Path) -> None:
    """The error says which option fixes it, and the option does."""
    model, x = saved(baked(), tmp_path / "m.onnx"), random(count, 2, 3)
    with pytest.raises(NestedSparseError, match="--size N=1"):
        nest_onnx(model, {"x": x}, tmp_path / "m.safetensors", densities=(0.5,))
    path = nest_onnx(model, {"x": x}, tmp_path / "m.safetensors", densities=(0.5, 1.0), sizes={"N": 1}).path
    with Session(path, threads=1) as session:
        close(session.run({"x": x[:1]})["output"], answers(baked(), {"x": x[:1]})["output"])


def test_weights_of_other_types_stay_and_are_listed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
        helper.make_node("MatMul", ["d", "w"], ["m"], "front/MatMul"),
        helper.make_node("Cast", ["m"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "v"], ["output"], "back/MatMul"),
    ]
    constants = {"w": random(6, 5).astype(np.float64), "v": random(5, 4)}
    model = model_of(nodes, {"x": ["N", 6]}, {"output": ["N", 4]}, constants)
    path = nest_onnx(saved(model, tmp_path / "m.onnx"), {"x": X}, tmp_path / "m.safetensors", densities=(0.3, 1.0)).path
    with Checkpoint.open(path) as checkpoint:
        network = checkpoint.metadata.network
    assert network is not None
    assert {each.name: each.why.partition(";")[0] for each in network.dense if each.weights} == {
        "w": "MatMul: it computes in float64"
    }
    with Session(path, threads=1) as session:
        close(session.run({"x": X})["output"], answers(model, {"x": X})["output"])


def test_a_constant_may_be_an_output(tmp_path: Path) -> None:
    """Beside its use as a weight, and one that no node reads."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["output"], "fc/MatMul")]
    shapes = {"output": ["N", 5], "w": [6, 5], "version": [1]}
    constants = {"w": random(6, 5), "version": np.float32([3])}
    model = model_of(nodes, {"x": ["N", 6]}, shapes, constants)
    path = nest_onnx(saved(model, tmp_path / "m.onnx"), {"x": X}, tmp_path / "m.safetensors", densities=(0.3, 1.0)).path
    with Session(path, threads=1) as session:
        for level in (0, 1):
            got = session.run({"x": X}, level=level)
            np.testing.assert_array_equal(got["w"], constants["w"])
            np.testing.assert_array_equal(got["version"], constants["version"])
        close(got["output"], answers(model, {"x": X})["output"])


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
def test_a_mask_of_infinities_is_no_bias(operator: str, tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], "fc/MatMul")]
    nodes += (
        [helper.make_node("MatMul", ["h", "v"], ["m"], "last/MatMul"), helper.make_node("Add", ["m", "mask"], ["a"])]
        if operator == "MatMul"
        else [helper.make_node("Gemm", ["h", "v", "mask"], ["a"], "last/Gemm")]
    )
    nodes.append(helper.make_node("Softmax", ["a"], ["output"]))
    constants = {"w": random(6, 5), "v": random(5, 4), "mask": np.array([0, -np.inf, 0, 0], np.float32)}
    model = model_of(nodes, {"x": ["N", 6]}, {"output": ["N", 4]}, constants)
    path = nest_onnx(saved(model, tmp_path / "m.onnx"), {"x": X}, tmp_path / "m.safetensors", densities=(0.3, 1.0)).path
    with Session(path, threads=1) as session:
        close(session.run({"x": X})["output"], answers(model, {"x": X})["output"])


def test_names_of_torchs_own_attributes(tmp_path: Path) -> None:
    names = ["plan.weight", "_parameters.weight", "left_out.weight", "training.weight", "size_advice.weight"]
    nodes = [
        helper.make_node("MatMul", [f"h{place}", name], [f"h{place + 1}"], f"node{place}")
        for place, name in enumerate(names)
    ]
    last = f"h{len(names)}"
    model = model_of(nodes, {"h0": ["N", 6]}, {last: ["N", 6]}, {name: random(6, 6) for name in names})
    path = nest_onnx(saved(model, tmp_path / "m.onnx"), {"h0": X}, tmp_path / "m.safetensors", densities=(1.0,)).path
    with Session(path, threads=1) as session:
        close(session.run({"h0": X})[last], answers(model, {"h0": X})[last])


def test_labels_of_classes_that_the_model_lacks(tmp_path: Path) -> None:
    data = {"input": random(6, 3, 11, 10), "truth": np.array([0, 1, 2, 3, 4, 7])}
    model = saved(torch_cnn(), tmp_path / "m.onnx")
    with pytest.raises(NestedSparseError, match=r"class indices below 7, .* got 7"):
        nest_onnx(model, data, tmp_path / "m.safetensors", densities=(0.5,), labels="truth")


@pytest.mark.parametrize("output", ["m.onnx", "m.bin", "data.npz", "link"])
def test_a_file_that_is_read_is_not_replaced(output: str, tmp_path: Path) -> None:
    """Not even with force: the model, its external data, the calibration, and a link to one."""
    onnx.save(torch_cnn(), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=64)
    np.savez(tmp_path / "data.npz", input=random(6, 3, 11, 10))
    (tmp_path / "link").symlink_to(tmp_path / "m.onnx")
    before = (tmp_path / output).read_bytes()
    with pytest.raises(NestedSparseError, match="is a file that is read"):
        nest_onnx(tmp_path / "m.onnx", tmp_path / "data.npz", tmp_path / output, densities=(0.5,), force=True)
    assert (tmp_path / output).read_bytes() == before


def test_random_numbers_are_no_fault_of_the_reader(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "fc/MatMul"),
        helper.make_node("RandomNormalLike", ["m"], ["r"]),
        helper.make_node("Add", ["m", "r"], ["output"]),
    ]
    model = model_of(nodes, {"x": ["N", 6]}, {"output": ["N", 5]}, {"w": random(6, 5)})
    with pytest.raises(NestedSparseError, match="answers otherwise in every run"):
        nest_onnx(saved(model, tmp_path / "m.onnx"), {"x": X}, tmp_path / "m.safetensors", densities=(0.5,))


def test_a_pattern_that_cannot_keep_a_sparse_file(tmp_path: Path) -> None:
    """The error says where the density 1 comes from, which the user did not give."""
    weight = random(72, 16) * (np.random.default_rng(0).random((72, 16)) < 0.5)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["output"], "fc/MatMul")]
    model = saved(model_of(nodes, {"x": ["N", 72]}, {"output": ["N", 16]}, {"w": weight}), tmp_path / "m.onnx")
    data = {"x": random(8, 72)}
    with pytest.raises(PatternError) as caught:
        nest_onnx(model, data, tmp_path / "m.safetensors", densities=(0.05, 0.1), pattern="gs16x4")
    assert all(
        word in str(caught.value) for word in ["m.onnx is sparse already", "leave the pattern out", "64 of the 72"]
    )
