"""Free sizes: a model whose sequences may have any length of a range, from its file to served answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chain import Written, small_chain
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import InputError
from nested_sparse.free_size import FreeSize
from nested_sparse.runtime.joining import mark_rows
from nested_sparse.runtime.profiling.size_growth import measured_sizes
from nested_sparse.runtime.scheduling.device import Device
from nested_sparse.runtime.scheduling.request import Request
from nested_sparse.runtime.session.session import Session
from nested_sparse.serving.commands.inspect import describe
from nested_sparse.serving.commands.profile import measure
from nested_sparse.serving.load import ModelConfig, load_model
from nested_sparse.serving.served_model import ServedModel
from nested_sparse.slice import slice_checkpoint

LENGTH = FreeSize("length", 2, 40, 2)
WIDTH = 24


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A file of which requests may be joined."""
    made = small_chain(tmp_path_factory.mktemp("sizes") / "tokens.safetensors", length=LENGTH)
    assert mark_rows(made.path).independent
    return made


@pytest.fixture
def model(written: Written) -> Iterator[ServedModel]:
    """That file, served."""
    with Session(written.path, threads=1) as session:
        served = load_model(session, ModelConfig(60_000.0, joined_samples=4), Device())
        yield served
        served.engine.close(0.0)


def drawn(length: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(length).standard_normal((batch, length, WIDTH)).astype(np.float32)


def test_requests_of_any_allowed_length_get_their_answers(written: Written, model: ServedModel) -> None:
    """Each request, beside others, joined with none of another length."""
    lengths = (2, 40, 8, 8, 6, 8, 40)
    futures = [model.engine.submit(Request({"input": drawn(length)}, level=1)) for length in lengths]
    for length, future in zip(lengths, futures, strict=True):
        got = future.result(60).outputs["output"]
        np.testing.assert_allclose(got, written.reference(drawn(length), 1), rtol=1e-4, atol=1e-4)
    for wrong in (1, 7, 42):
        with pytest.raises(InputError, match=f"'length', may be 2 to 40, a multiple of 2, got {wrong}"):
            model.engine.submit(Request({"input": drawn(wrong)})).result(60)


def test_clients_see_the_free_dimension_and_what_is_wrong_with_theirs(
    written: Written, model: ServedModel, serve: Callable[..., Any]
) -> None:
    """-1 in metadata and configuration; INVALID_ARGUMENT with the name and the range of the size."""
    triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    with serve([model]) as server, triton.InferenceServerClient(server.address) as client:
        metadata = client.get_model_metadata("tokens", as_json=True)
        assert metadata["inputs"][0]["shape"] == ["-1", "-1", str(WIDTH)]
        config = client.get_model_config("tokens").config
        assert (list(config.input[0].dims), config.max_batch_size) == ([-1, WIDTH], 4)
        for length, batch in ((4, 1), (40, 3)):
            x = triton.InferInput("input", [batch, length, WIDTH], "FP32")
            x.set_data_from_numpy(drawn(length, batch))
            got = client.infer("tokens", [x], parameters={"level": 2}).as_numpy("output")
            np.testing.assert_allclose(got, written.reference(drawn(length, batch), 2), rtol=1e-4, atol=1e-4)
        x = triton.InferInput("input", [1, 42, WIDTH], "FP32")
        x.set_data_from_numpy(drawn(42))
        with pytest.raises(triton.InferenceServerException, match="'length', may be 2 to 40") as caught:
            client.infer("tokens", [x])
        assert "INVALID_ARGUMENT" in str(caught.value.status())


def test_a_slice_keeps_the_sizes(written: Written, tmp_path: Path) -> None:
    """It answers at each of them as the whole file does."""
    slice_checkpoint(written.path, 1, tmp_path / "slice.safetensors")
    with Session(written.path, threads=1) as whole, Session(tmp_path / "slice.safetensors", threads=1) as part:
        assert part.inputs == whole.inputs
        for length in (2, 22):
            feeds = {"input": drawn(length)}
            np.testing.assert_array_equal(part.run(feeds, 0)["output"], whole.run(feeds, 0)["output"])


def test_inspect_and_profile_tell_the_sizes(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    """In tables and in JSON."""
    from nested_sparse.serving.commands import inspect, profile

    with Checkpoint.open(written.path) as checkpoint:
        facts = describe(checkpoint)
    assert facts["inputs"][0]["free"][1]["most"] == 40
    inspect._print({**facts, "conversions": []})
    assert "2 to 40, a multiple of 2" in capsys.readouterr().out
    measured = measure(written.path, -1, [1], 1, 3)
    wanted = sorted({8, *measured_sizes(LENGTH, 8)})
    assert [(each["value"], each["level"]) for each in measured["sizes"]] == [
        (value, level) for value in wanted for level in range(3)
    ]
    assert all(each["median_ms"] > 0 for each in measured["sizes"])
    profile._print(measured)
    assert "latency by 'length'" in capsys.readouterr().out
