"""Networks with states: clients that send them back, and clients for which the server keeps them."""

from __future__ import annotations

import json
import random
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
from forging import forge
from stateful import FEATURES, HEADS, HIDDEN, LAYERS, WIDTH, decoder_file, lstm_file, torch_step

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError, ExportError, InputError, ServingError
from nested_sparse.runtime import Session
from nested_sparse.runtime.policy.elastic import ElasticPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.scheduling.device import Device
from nested_sparse.runtime.scheduling.request import Request
from nested_sparse.runtime.scheduling.scheduler import Scheduler
from nested_sparse.serving.load import ModelConfig, load_model
from nested_sparse.serving.server import ServerConfig
from nested_sparse.slice import slice_checkpoint

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
LSTM_STATE, DECODER_STATE = {"h_out": "h", "c_out": "c"}, {"k_out": "k", "v_out": "v"}


@pytest.fixture(scope="module")
def lstm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The net, and its file."""
    return lstm_file(tmp_path_factory.mktemp("states"), state=LSTM_STATE)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The net, and its file."""
    return decoder_file(tmp_path_factory.mktemp("states"), state=DECODER_STATE)


@pytest.fixture
def server(lstm: Any, decoder: Any, serve: Callable[..., Any]) -> Iterator[Any]:
    """Both files, served over gRPC and REST; waiting requests may join."""
    with Session(lstm[1], threads=1) as one, Session(decoder[1], threads=1) as two:
        models = [load_model(each, ModelConfig(60_000.0, joined_samples=4), Device()) for each in (one, two)]
        with serve(models, ServerConfig(port=0, http_port=0, grace_s=5)) as server:
            yield server


TURN = Lock()
"""A net has one level at a time."""


def torch_step_alone(*arguments: Any) -> tuple[np.ndarray, ...]:
    with TURN:
        return torch_step(*arguments)


def lstm_feeds(rng: np.random.Generator, batch: int = 1, length: int = 3) -> dict[str, np.ndarray]:
    shapes = {"x": (batch, length, FEATURES), "h": (LAYERS, batch, HIDDEN), "c": (LAYERS, batch, HIDDEN)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def asked(feeds: dict[str, np.ndarray], kind: Any = triton) -> list[Any]:
    inputs = []
    for name, array in feeds.items():
        inputs.append(kind.InferInput(name, list(array.shape), "FP32"))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def test_requests_are_joined_along_the_batch_of_each_tensor(lstm: Any) -> None:
    """Several sequences in one run, of one and of two samples: each gets its own outputs and its own states."""
    net, path = lstm
    rng = np.random.default_rng(0)
    with Session(path, threads=1) as session:
        assert [spec.batch_axis for spec in (*session.inputs, *session.outputs)] == [0, 1, 1, 0, 1, 1]
        profile = LatencyProfile((1, 2, 4), [[8.0] * 3] * 2)
        scheduler = Scheduler(session, profile, ElasticPolicy(profile), default_slo_ms=60_000.0, workers=0)
        given = [lstm_feeds(rng, batch) for batch in (1, 2, 1, 1)] + [lstm_feeds(rng, 1, length=7)]
        futures = [scheduler.submit(Request(feeds, level=1)) for feeds in given]
        while scheduler.serve_next():
            pass
        assert [future.result(0).batch for future in futures] == [4, 4, 4, 1, 1]
        for feeds, future in zip(given, futures, strict=True):
            for got, expected in zip(future.result(0).outputs.values(), torch_step(net, 1, feeds), strict=True):
                np.testing.assert_allclose(got, expected, **CLOSE)
        odd = lstm_feeds(rng) | {"h": lstm_feeds(rng, 2)["h"]}
        with pytest.raises(InputError, match=r"'batch', is 2, but that of input 'x' is 1"):
            scheduler.submit(Request(odd)).result(0)


@pytest.mark.parametrize("model", ["lstm", "decoder"])
def test_many_clients_each_go_on_with_their_own_state(model: str, request: Any, server: Any) -> None:
    """At levels that change from step to step, in a random order, several at once, over gRPC and over REST."""
    import tritonclient.http as rest

    net, _ = request.getfixturevalue(model)
    order = random.Random(1)

    def sequence(client: int) -> None:
        rng = np.random.default_rng(client)
        transport, address = (triton, server.address) if client % 2 else (rest, server.http_address)
        batch = 1 + client % 3
        if model == "lstm":
            states = {name: array for name, array in lstm_feeds(rng, batch).items() if name != "x"}
        else:
            states = {name: np.zeros((batch, HEADS, 1, WIDTH // HEADS), np.float32) for name in ("k", "v")}
        with transport.InferenceServerClient(address) as asks:
            for _ in range(6):
                width, length = (FEATURES, order.choice((1, 2, 20))) if model == "lstm" else (WIDTH, 1)
                x = rng.standard_normal((batch, length, width)).astype(np.float32)
                feeds, level = {"x": x, **states}, order.randrange(2)
                answer = asks.infer(model, asked(feeds, transport), parameters={"level": level})
                expected = torch_step_alone(net, level, feeds)
                got = [answer.as_numpy(name) for name in ("y", *(f"{name}_out" for name in states))]
                for one, other in zip(got, expected, strict=True):
                    np.testing.assert_allclose(one, other, **CLOSE)
                states = dict(zip(states, got[1:], strict=True))

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(sequence, client) for client in range(6)]:
            done.result(60)


def test_sizes_that_do_not_fit_are_refused_over_the_wire(server: Any) -> None:
    """A length of 0, one beyond the bound, a state of another width or batch, a cache beyond its bound."""
    rng = np.random.default_rng(0)
    good = lstm_feeds(rng)
    cases = [
        ("lstm", good | {"x": np.zeros((1, 0, FEATURES), np.float32)}, r"sizes of 1 or more"),
        ("lstm", lstm_feeds(rng, length=21), r"'length', may be 1 to 20, got 21"),
        ("lstm", good | {"h": np.zeros((LAYERS, 1, HIDDEN + 1), np.float32)}, r"input 'h': expected shape"),
        ("lstm", good | {"h": np.zeros((1, 1, HIDDEN), np.float32)}, r"input 'h': expected shape"),
        ("lstm", good | {"c": np.zeros((LAYERS, 2, HIDDEN), np.float32)}, r"'batch', is 2, but .* is 1"),
        ("lstm", {"x": good["x"]}, r"missing \[c, h\]|missing \['c', 'h'\]"),
        (
            "decoder",
            {"x": np.zeros((1, 1, WIDTH), np.float32)}
            | {name: np.zeros((1, HEADS, 13, WIDTH // HEADS), np.float32) for name in ("k", "v")},
            r"'past', may be 1 to 12, got 13",
        ),
    ]
    with triton.InferenceServerClient(server.address) as client:
        for model, feeds, message in cases:
            with pytest.raises(triton.InferenceServerException, match=message) as caught:
                client.infer(model, asked(feeds))
            assert "INVALID_ARGUMENT" in str(caught.value.status())
        one = lstm_feeds(rng, length=1)
        assert client.infer("lstm", asked(one)).as_numpy("y").shape == (1, 1, 3)


def test_metadata_tells_whole_shapes_where_the_batch_is_not_always_first(server: Any) -> None:
    """max_batch_size is 0: the protocol has no word for a batch that is another dimension of some tensors."""
    with urllib.request.urlopen(f"http://{server.http_address}/v2/models/lstm") as answer:
        shapes = {each["name"]: each["shape"] for each in json.load(answer)["inputs"]}
    assert shapes == {"x": [-1, -1, FEATURES], "h": [LAYERS, -1, HIDDEN], "c": [LAYERS, -1, HIDDEN]}
    with triton.InferenceServerClient(server.address) as client:
        config = client.get_model_config("lstm").config
        assert (config.max_batch_size, list(config.input[1].dims)) == (0, [LAYERS, -1, HIDDEN])
        assert client.get_model_config("decoder").config.max_batch_size == 4


@pytest.mark.parametrize("model", ["lstm", "decoder"])
def test_the_server_keeps_the_states_of_many_sequences(model: str, request: Any, server: Any) -> None:
    """As torch step by step: sequences of several clients in turns and at once, over gRPC and REST, in batches.

    Levels change from step to step; lengths and batches differ, so that some run together and some do not.
    """
    import tritonclient.http as rest

    net, _ = request.getfixturevalue(model)

    def client(number: int) -> None:
        rng, order = np.random.default_rng(number), random.Random(number)
        transport, address = (triton, server.address) if number % 2 else (rest, server.http_address)
        left: dict[Any, int] = {f"{number}" if place else number + 1: 5 for place in range(2)}
        states: dict[Any, dict[str, np.ndarray]] = {}
        with transport.InferenceServerClient(address) as asks:
            while left:
                name = order.choice(list(left))
                left[name] -= 1
                starts, batch = name not in states, 1 + number % 3
                if model == "lstm":
                    feeds = {"x": rng.standard_normal((batch, order.choice((1, 3)), FEATURES)).astype(np.float32)}
                    zeros = np.zeros((LAYERS, batch, HIDDEN), np.float32)
                    first = {"h": zeros, "c": zeros}
                    brought: dict[str, np.ndarray] = {}
                else:
                    feeds = {"x": rng.standard_normal((batch, 1, WIDTH)).astype(np.float32)}
                    shape = (batch, HEADS, 1, WIDTH // HEADS)
                    first = brought = {key: rng.standard_normal(shape).astype(np.float32) for key in ("k", "v")}
                level = order.randrange(2)
                answer = asks.infer(
                    model,
                    asked(feeds | brought if starts else feeds, transport),
                    parameters={"level": level},
                    sequence_id=name,
                    sequence_start=starts,
                    sequence_end=not left[name],
                )
                expected, *after = torch_step_alone(net, level, feeds | (first if starts else states[name]))
                np.testing.assert_allclose(answer.as_numpy("y"), expected, **CLOSE)
                states[name] = dict(zip(first, after, strict=True))
                if not left[name]:
                    del left[name]

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(client, number) for number in range(6)]:
            done.result(60)
    assert len(server._dataplane.sequences) == 0
    assert server._dataplane.sequences.counts[model] == [0, 0]


def test_a_cache_begins_as_its_client_says_and_ends_at_its_bound(server: Any) -> None:
    """Zeros would be a token that never was. Beyond the bound the request is refused, and the state stays."""
    x = {"x": np.ones((1, 1, WIDTH), np.float32)}
    first = {name: np.zeros((1, HEADS, 11, WIDTH // HEADS), np.float32) for name in ("k", "v")}
    with triton.InferenceServerClient(server.address) as client:
        with pytest.raises(triton.InferenceServerException, match="give its first value with the request that starts"):
            client.infer("decoder", asked(x), sequence_id=1, sequence_start=True)
        client.infer("decoder", asked(x | first), sequence_id=1, sequence_start=True)
        client.infer("decoder", asked(x), sequence_id=1)
        for _ in range(2):
            with pytest.raises(triton.InferenceServerException, match="'past', may be 1 to 12, got 13"):
                client.infer("decoder", asked(x), sequence_id=1)
        nbytes = 2 * HEADS * 13 * (WIDTH // HEADS) * 4
        assert server._dataplane.sequences.counts["decoder"] == [1, nbytes]


def test_a_file_says_what_its_state_is(lstm: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its slices too; a state that cannot be one is refused, by the file and by the settings."""
    from nested_sparse.serving.commands import inspect

    slice_checkpoint(lstm[1], 1, tmp_path / "slice.safetensors")
    with Checkpoint.open(tmp_path / "slice.safetensors") as checkpoint:
        assert checkpoint.state == LSTM_STATE
        inspect._print({**inspect.describe(checkpoint), "conversions": []})
    assert "state h_out -> h, c_out -> c" in capsys.readouterr().out
    for wrong, said in (
        ({"h_out": "z"}, "no input 'z'"),
        ({"z": "h"}, "no output 'z'"),
        ({"y": "h"}, "'y', float32 .* cannot be input 'h'"),
        ({"h_out": "h", "c_out": "h"}, "two outputs"),
        ({"h_out": 3}, "expected a name"),
        ([], "AttributeError"),
    ):
        path = tmp_path / "wrong.safetensors"
        shutil.copy(lstm[1], path)
        forge(path, lambda metadata, _, wrong=wrong: metadata.update(state=wrong))
        with pytest.raises(CheckpointError, match=said):
            Checkpoint.open(path)
    shutil.copy(lstm[1], tmp_path / "plain.safetensors")
    forge(tmp_path / "plain.safetensors", lambda metadata, _: metadata.pop("state"))
    with Session(tmp_path / "plain.safetensors", threads=1) as session:
        assert session.state == {}
        model = load_model(session, ModelConfig(60_000.0, state={"c_out": "c"}), Device())
        model.engine.close(0.0)
        assert model.state == {"c_out": "c"}
        with pytest.raises(ServingError, match="no output 'c'"):
            load_model(session, ModelConfig(60_000.0, state={"c": "c_out"}), Device())


def test_export_refuses_a_state_that_is_none(tmp_path: Path) -> None:
    """And leaves no file."""
    for wrong, said in (({"h_out": "x"}, "cannot be input 'x'"), (["h_out"], "expected names"), ({1: "h"}, "expected")):
        with pytest.raises(ExportError, match=said):
            lstm_file(tmp_path, state=wrong)
    assert list(tmp_path.iterdir()) == []
