"""Bad input: files and calibration data that nest_onnx refuses, with words that say why; no file is left."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_files import model_of, random, saved, torch_cnn

from nested_sparse.errors import CheckpointError, InputError, NestedSparseError
from nested_sparse.trainer import nest_onnx

IMAGES = random(6, 3, 11, 10)


def refused(tmp_path: Path, source: Any, data: Any = None, **options: Any) -> str:
    """The message of the error; nothing is left beside the given files."""
    model = saved(source, tmp_path / "m.onnx") if isinstance(source, onnx.ModelProto) else source
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(NestedSparseError) as caught:
        nest_onnx(
            model,
            {"input": IMAGES} if data is None else data,
            tmp_path / "out.safetensors",
            **{"densities": (0.5,), **options},
        )
    assert {path.name for path in tmp_path.iterdir()} == before
    return f"{type(caught.value).__name__}: {caught.value}"


def cnn_bytes() -> bytes:
    return torch_cnn().SerializeToString()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"not an onnx file" * 100,
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: bytes(reversed(data)),
    ],
)
def test_broken_files(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """The words are for all of them: the file is none, or damaged."""
    (tmp_path / "m.onnx").write_bytes(damage(cnn_bytes()))
    said = refused(tmp_path, tmp_path / "m.onnx")
    assert said.startswith("ExportError")
    assert "m.onnx" in said
    assert "again" in said


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    """A file that is cut anywhere never crashes, and never becomes a checkpoint."""
    data = cnn_bytes()
    for end in range(0, len(data) - 1, len(data) // 23):
        (tmp_path / "m.onnx").write_bytes(data[:end])
        refused(tmp_path, tmp_path / "m.onnx")


def test_absent_files(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path, tmp_path / "absent.onnx")
    assert "there is a folder" in refused(tmp_path, tmp_path)
    assert "no such file" in refused(tmp_path, torch_cnn(), tmp_path / "absent.npz")


def external(tmp_path: Path, location: str = "weights.bin") -> Path:
    """A model with its weights in a second file."""
    onnx.save(torch_cnn(), tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=64)
    if location != "weights.bin":
        model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = location if entry.key == "location" else entry.value
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    return tmp_path / "m.onnx"


def test_external_data(tmp_path: Path) -> None:
    """Read where they are whole and beside the model; named where they are missing, cut off, or elsewhere."""
    path = external(tmp_path)
    assert nest_onnx(path, {"input": IMAGES}, tmp_path / "m.safetensors", densities=(0.5,)).path.exists()
    (tmp_path / "m.safetensors").unlink()
    weights = tmp_path / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert "the file has" in refused(tmp_path, path)
    weights.unlink()
    assert "is not there" in refused(tmp_path, path)
    outside = tmp_path / "inner"
    outside.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(100_000))
    assert "outside of the model's folder" in refused(outside, external(outside, "../weights.bin"))
    assert "outside of the model's folder" in refused(outside, external(outside, "/etc/passwd"))


def changed(change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    model = torch_cnn()
    change(model)
    return model


def of_domain(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "com.microsoft"
    model.graph.node[1].op_type = "Gelu"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Frobnicate"


def wrong_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 99


def no_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def text_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING


def no_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def no_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING


def dangling(model: onnx.ModelProto) -> None:
    model.graph.node[2].input[0] = "absent"


def runtime_name(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "__level__"
    model.graph.node[0].input[0] = "__level__"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (of_domain, ["Gelu of domain com.microsoft", "cannot hold"]),
        (unknown_operator, ["Frobnicate"]),
        (wrong_opset, ["version 99", "expected 1 to"]),
        (no_opset, ["version None"]),
        (text_input, ["input 'input'", "expected a tensor of numbers"]),
        (no_shape, ["'input' has no shape"]),
        (no_output, ["no output that is a tensor of numbers"]),
        (dangling, ["absent"]),
        (runtime_name, ["__level__"]),
    ],
)
def test_graphs_that_a_checkpoint_cannot_hold(
    change: Callable[[onnx.ModelProto], None], words: list[str], tmp_path: Path
) -> None:
    said = refused(tmp_path, changed(change))
    assert all(word in said for word in words), said


def test_models_without_weights_to_nest(tmp_path: Path) -> None:
    """Each weight that stays dense is named with the reason."""
    nodes = [
        helper.make_node("MatMul", ["left", "input"], ["m"], "front/MatMul"),
        helper.make_node("Mul", ["m", "table"], ["output"]),
    ]
    constants = {"left": random(4, 4), "table": random(4, 5)}
    model = model_of(nodes, {"input": [4, 5]}, {"output": [4, 5]}, constants)
    said = refused(tmp_path, model, {"input": random(8, 5)})
    assert "its constant is the left operand" in said
    assert "table: Mul reads it" in said
    nodes = [helper.make_node("Relu", ["input"], ["output"])]
    said = refused(tmp_path, model_of(nodes, {"input": ["N", 5]}, {"output": ["N", 5]}, {}), {"input": random(8, 5)})
    assert "can be nested" in said


def npz(**arrays: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return arrays


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (npz(), {}, ["no array 'input'", "got none"]),
        (npz(x=IMAGES), {}, ["no array 'input'", "'x'"]),
        (npz(input=IMAGES, y=np.zeros(6)), {}, ["an array 'y'", "labels"]),
        (npz(input=IMAGES[:0]), {}, ["no whole sample"]),
        (npz(input=IMAGES[:, :2]), {}, ["[6, 2, 11, 10]", "expected [samples, 3, 11, 10]"]),
        (npz(input=IMAGES[0]), {}, ["[3, 11, 10]"]),
        (npz(input=np.where(IMAGES > 2, np.nan, IMAGES)), {}, ["NaN or infinity"]),
        (npz(input=(IMAGES * 9).astype(np.uint8)), {}, ["is uint8", "float32"]),
        (npz(input=IMAGES, y=np.zeros(5, int)), {"labels": "y"}, ["expected 6", "got 5"]),
        (npz(input=IMAGES, y=np.zeros(6)), {"labels": "y"}, ["float64", "whole numbers"]),
        (npz(input=IMAGES, y=np.full(6, -1)), {"labels": "y"}, ["from 0 on"]),
        (npz(input=IMAGES), {"labels": "y"}, ["no array 'y'"]),
        (npz(input=IMAGES), {"sizes": {"M": 4}}, ["no free size 'M'", "are: N"]),
        (npz(input=IMAGES), {"samples": 0}, ["samples"]),
        (npz(input=IMAGES), {"densities": (0.5, 0.2)}, ["densit"]),
        (npz(input=IMAGES), {"keep_dense": ("nowhere",)}, ["no layer matches 'nowhere'", "conv1"]),
        (npz(input=IMAGES), {"values": "int4"}, ["int4"]),
        (npz(input=IMAGES), {"pattern": "diagonal"}, ["diagonal"]),
    ],
)
def test_wrong_calibration_data_and_options(
    data: dict[str, NDArray[Any]], options: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    said = refused(tmp_path, torch_cnn(), data, **options)
    assert all(word in said for word in words), said


def pickled() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, input=np.array([{"a": 1}], dtype=object))
    return stream.getvalue()


def lone() -> bytes:
    stream = io.BytesIO()
    np.save(stream, IMAGES)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 no zip", pickled(), lone()], ids=["empty", "no zip", "pickle", "npy"]
)
def test_files_that_are_no_npz_of_plain_arrays(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    said = refused(tmp_path, torch_cnn(), tmp_path / "d.npz")
    assert said.startswith(InputError.__name__), said
    assert "d.npz" in said


def test_an_existing_output_is_kept_without_force(tmp_path: Path) -> None:
    (tmp_path / "out.safetensors").write_bytes(b"mine")
    assert refused(tmp_path, torch_cnn()).startswith(CheckpointError.__name__)
    assert (tmp_path / "out.safetensors").read_bytes() == b"mine"
    path = nest_onnx(
        tmp_path / "m.onnx", {"input": IMAGES}, tmp_path / "out.safetensors", densities=(0.5,), force=True
    ).path
    assert path.stat().st_size > 100


def test_training_is_refused(tmp_path: Path) -> None:
    """A network of an ONNX file has no gradients; the error says what to do."""
    from nested_sparse.trainer import nest
    from nested_sparse.trainer.from_onnx.onnx_network import OnnxNetwork
    from nested_sparse.trainer.from_onnx.prepare import prepare
    from nested_sparse.trainer.from_onnx.read import read_onnx

    model = read_onnx(saved(torch_cnn(), tmp_path / "m.onnx"))
    net = nest(OnnxNetwork.of(model, prepare(model, "m.onnx", {})[1], "m.onnx"), densities=(0.5,)).train()
    import torch

    with pytest.raises(InputError, match="cannot be trained"):
        net(torch.from_numpy(IMAGES))


def test_control_flow_without_layers_runs(tmp_path: Path) -> None:
    """An If whose branches have no weights stays; a weight inside a branch stays dense."""
    then = helper.make_graph(
        [helper.make_node("Neg", ["c1"], ["a"])],
        "then",
        [],
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Relu", ["c1"], ["b"])],
        "else",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
    )
    model = torch_cnn()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(
        [
            nodes[0],
            helper.make_node("ReduceSum", ["input"], ["total"], keepdims=0),
            helper.make_node("Less", ["total", "limit"], ["small"]),
            helper.make_node("If", ["small"], ["r1"], then_branch=then, else_branch=other),
            *nodes[2:],
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "limit"))
    from onnx_files import answers, close

    from nested_sparse.runtime import Session

    path = nest_onnx(
        saved(model, tmp_path / "m.onnx"), {"input": IMAGES}, tmp_path / "m.safetensors", densities=(1.0,)
    ).path
    with Session(path, threads=1) as session:
        for images in (IMAGES[:1], -IMAGES[:1], IMAGES[2:3]):
            close(session.run({"input": images})["output"], answers(model, {"input": images})["output"])
