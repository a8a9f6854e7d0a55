"""The format page: a reader that follows only FORMAT.md answers as Session does, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_reader import ForeignModel
from onnx import TensorProto, helper, numpy_helper

from chain import counting_layer, linear_chain
from imports import read_imports
from nested_sparse.kernels.library import library_path
from nested_sparse.placement import LayerPlacement
from nested_sparse.runtime import Session
from nested_sparse.slice import slice_checkpoint
from nested_sparse.tensor_spec import TensorSpec
from nested_sparse.writer import LevelRecord, write_checkpoint
from support import EXAMPLE, ROOT

FILES = [EXAMPLE, *sorted((ROOT / "tests/golden").glob("*.safetensors"))]
WIDTH, LEVELS = 4, 3


def assert_answers_alike(path: Path, levels: int) -> None:
    """Up to the densest level and down again, with one reader whose bound level is written between the runs."""
    rng = np.random.default_rng(0)
    model = ForeignModel(path, library_path())
    assert model.level_count == levels
    with Session(path, threads=1) as session:
        assert model.input_names == [spec.name for spec in session.inputs]
        inputs = {
            spec.name: rng.standard_normal(spec.example_shape).astype(spec.dtype).reshape(spec.example_shape)
            for spec in session.inputs
        }
        for level in (*range(levels), *reversed(range(levels))):
            model.level[...] = level
            outputs, expected = model.run(inputs), session.run(inputs, level)
            assert list(outputs) == list(expected)
            for name, value in expected.items():
                assert outputs[name].dtype == value.dtype
                assert outputs[name].tobytes() == value.tobytes(), f"{name} at level {level}"


def test_the_reader_knows_nothing_of_ours() -> None:
    """Only Python's own modules, numpy and ONNX Runtime."""
    path = "tests/foreign_reader.py"
    imported = read_imports({path: (ROOT / path).read_text(encoding="utf-8")})
    ours = {"__future__", "collections.abc", "json", "mmap", "pathlib", "struct", "typing", "numpy", "onnxruntime"}
    assert {each.target for each in imported} == ours


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_answers_as_its_session(path: Path) -> None:
    """The shipped example, and files of every version, layout and value type."""
    with Session(path, threads=1) as session:
        levels = len(session.levels)
    assert_answers_alike(path, levels)


def test_a_slice_gets_empty_segments(tmp_path: Path) -> None:
    """And a level that it has lost is refused by the operators."""
    slice_checkpoint(EXAMPLE, 2, tmp_path / "slice.safetensors")
    assert_answers_alike(tmp_path / "slice.safetensors", 2)
    model = ForeignModel(tmp_path / "slice.safetensors", library_path())
    model.level[...] = 2
    with pytest.raises(Exception, match="level 2 is not in this file"):
        model.run({"input": np.zeros((1, 1, 28, 28), np.float32)})


@pytest.fixture
def lowering(tmp_path: Path) -> Path:
    """Three counting layers; between the first and the second the graph answers the int64 that `to` holds."""
    records = [counting_layer(name, WIDTH, LEVELS) for name in "abc"]
    chain = linear_chain(records, LEVELS)

    def build(placements: dict[str, LayerPlacement]) -> bytes:
        model = onnx.load_from_string(chain(placements))
        graph = model.graph
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "zero"))
        graph.input.insert(1, helper.make_tensor_value_info("to", TensorProto.INT64, []))
        graph.output.append(helper.make_tensor_value_info("lowered", TensorProto.INT64, []))
        nodes = [
            helper.make_node("ReduceMin", ["hidden0"], ["least"], keepdims=0),
            helper.make_node("Cast", ["least"], ["known"], to=TensorProto.INT64),  # so that it runs after the first
            helper.make_node("Mul", ["known", "zero"], ["nothing"]),
            helper.make_node("Add", ["to", "nothing"], ["lowered"]),
            helper.make_node("Mul", ["lowered", "zero"], ["none"]),
            helper.make_node("Cast", ["none"], ["none_float"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["hidden0", "none_float"], ["later"]),  # so that the second runs after it
        ]
        graph.node[1].input[0] = "later"
        rest = [*graph.node]
        del graph.node[:]
        graph.node.extend([rest[0], *nodes, *rest[1:]])
        serialized: bytes = model.SerializeToString()
        return serialized

    path = tmp_path / "lowering.safetensors"
    write_checkpoint(
        path,
        graph_builder=build,
        layers=records,
        levels=[LevelRecord((i + 1) / LEVELS, i, {}) for i in range(LEVELS)],
        inputs=[TensorSpec("input", "float32", (None, WIDTH), (2, WIDTH)), TensorSpec("to", "int64", (), ())],
        outputs=[TensorSpec("output", "float32", (None, WIDTH), (2, WIDTH)), TensorSpec("lowered", "int64", (), ())],
    )
    return path


def test_a_level_lowered_in_mid_run_holds_for_the_operators_that_follow(lowering: Path) -> None:
    """The graph's own output is bound to the memory of the level, so the place of the change is certain."""
    assert_answers_alike(lowering, LEVELS)
    model = ForeignModel(lowering, library_path())
    x = np.ones((2, WIDTH), np.float32)
    for to in range(LEVELS):
        binding = model.session.io_binding()
        binding.bind_cpu_input("input", x)
        binding.bind_cpu_input("to", np.array(to, np.int64))
        for name, value in model.bound.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("output")
        binding.bind_ortvalue_output("lowered", model.bound["__level__"])
        model.level[...] = LEVELS - 1
        model.session.run_with_iobinding(binding)
        assert model.level == to
        np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], x + (LEVELS - 1) + to + to)
