"""bfloat16: a checkpoint whose input and output are of that type, in a session and over the wire."""

from __future__ import annotations

import numpy as np
import pytest
from clients import failure, tensor, triton
from onnx import TensorProto, helper, load_model_from_string

from chain import counting_chain, linear_chain
from nested_sparse.bfloat16 import BFLOAT16, cast, widened
from nested_sparse.errors import InputError
from nested_sparse.runtime import Session
from nested_sparse.runtime.scheduling import Device
from nested_sparse.serving.load import ModelConfig, load_model
from nested_sparse.tensor_spec import TensorSpec
from nested_sparse.writer import LevelRecord, write_checkpoint

WIDTH = 4


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Two layers in float32, between a cast from bfloat16 and one to it."""
    folder = tmp_path_factory.mktemp("bfloat16")
    plain = counting_chain(folder / "plain.safetensors", 2, WIDTH)

    def build(placements):
        model = load_model_from_string(linear_chain(plain.records, 2, ends=("wide", "far"))(placements))
        graph = model.graph
        before = helper.make_node("Cast", ["input"], ["wide"], to=TensorProto.FLOAT)
        graph.node.insert(0, before)
        graph.node.append(helper.make_node("Cast", ["far"], ["output"], to=TensorProto.BFLOAT16))
        for ends, name, old in ((graph.input, "input", "wide"), (graph.output, "output", "far")):
            (value,) = [each for each in ends if each.name == old]
            value.CopyFrom(helper.make_tensor_value_info(name, TensorProto.BFLOAT16, ["N", WIDTH]))
        return bytes(model.SerializeToString())

    write_checkpoint(
        folder / "brain.safetensors",
        graph_builder=build,
        layers=plain.records,
        levels=[LevelRecord((i + 1) / 2, 1000 * (i + 1), {}) for i in range(2)],
        inputs=[TensorSpec("input", "bfloat16", (None, WIDTH), (1, WIDTH))],
        outputs=[TensorSpec("output", "bfloat16", (None, WIDTH), (1, WIDTH))],
    )
    return folder / "brain.safetensors"


def test_a_session_takes_and_gives_bits(path):
    """The values are those of float32, rounded."""
    x = cast(np.float32([[1, 2, 3, -4.5], [0.5, 0, 1e-3, 300]]), BFLOAT16)
    with Session(path, threads=1) as session, Session(path.with_name("plain.safetensors"), threads=1) as plain:
        for level in range(2):
            (got,) = session.run({"input": x}, level).values()
            (expected,) = plain.run({plain.inputs[0].name: widened(x)}, level).values()
            assert got.dtype == BFLOAT16
            np.testing.assert_array_equal(got.view(np.uint16), cast(expected, BFLOAT16).view(np.uint16))
        with pytest.raises(InputError, match="expected bfloat16, got uint16"):
            session.run({"input": x.view(np.uint16)})


def test_it_is_served(path, serve):
    """tritonclient sends and gets BF16; the other type of two bytes is refused."""
    ml_dtypes = pytest.importorskip(
        "ml_dtypes", reason="ml_dtypes, which tritonclient wants for BF16, is not installed"
    )
    x = np.float32([[1, 2, 3, -4.5]])
    with Session(path, threads=1) as session:
        (expected,) = session.run({"input": cast(x, BFLOAT16)}).values()
        model = load_model(session, ModelConfig(600_000.0), Device())
        try:
            with serve([model]) as server, triton.InferenceServerClient(server.address) as client:
                assert client.get_model_metadata("brain").inputs[0].datatype == "BF16"
                result = client.infer(
                    "brain", [tensor(x.astype(ml_dtypes.bfloat16), "input", "BF16")], parameters={"level": -1}
                )
                np.testing.assert_array_equal(result.as_numpy("output").astype(np.float32), widened(expected))
                wrong = tensor(x.astype(np.uint16), "input", "UINT16")
                status, message = failure(client, model_name="brain", inputs=[wrong])
                assert (status, "expected bfloat16" in message) == ("INVALID_ARGUMENT", True)
        finally:
            model.engine.close(0.0)
