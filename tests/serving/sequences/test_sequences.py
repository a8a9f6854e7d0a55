"""Sequences over the wire: an adder that keeps its sum."""

from __future__ import annotations

import asyncio
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from adder import Adder, Error, asked, kept, refused, step, stub, tensors, triton, visits, y_of
from clients import wait_for
from fake_repository import FakeLoader

from nested_sparse.errors import InputError, OverloadedError
from nested_sparse.proto import messages
from nested_sparse.serving.dataplane import Dataplane
from nested_sparse.serving.metrics import Metrics
from nested_sparse.serving.model_config import config_message
from nested_sparse.serving.protocol.convert import InferRequest
from nested_sparse.serving.protocol.known_headers import KnownRequest
from nested_sparse.serving.repository.folder import ModelFolder
from nested_sparse.serving.repository.repository import Repository
from nested_sparse.serving.security import SecurityConfig
from nested_sparse.serving.served_model import ServedModel
from nested_sparse.serving.server import ServerConfig
from nested_sparse.serving.servicer import Servicer


def test_a_sequence_goes_on_from_request_to_request_and_ends(client: Any, server: Any) -> None:
    """It begins with zeros, and ends with the request that says so; a number and a text are two ids."""
    assert [step(client, 1, 7, start=True), step(client, 2, 7), step(client, 3, "7", start=True)] == [10, 30, 30]
    assert kept(server) == (2, 16)
    assert step(client, 4, 7, end=True) == 70
    assert kept(server) == (1, 8)
    status, said = refused(lambda: step(client, 1, 7))
    assert status == "FAILED_PRECONDITION"
    assert "keeps no sequence 7 of this client" in said
    assert "sequence_start" in said
    assert step(client, 5, "7") == 80
    assert step(client, 5, 9, start=True, end=True) == 50
    assert kept(server) == (1, 8)


def test_a_start_begins_anew_and_may_bring_the_first_state(client: Any) -> None:
    """Later requests may not bring one; without a sequence each brings its own."""
    first = [*tensors(1), *tensors(100, name="sum")]
    for _ in range(4):  # from the second time on, its header is known
        answer = client.infer("adder", first, sequence_id=1, sequence_start=True)
        assert answer.as_numpy("y")[0, 0] == 1010
        assert answer.as_numpy("sum_out") is None
    assert step(client, 1, 1) == 1020
    status, said = refused(lambda: client.infer("adder", first, sequence_id=1))
    assert (status, "which the server keeps in sequence 1" in said) == ("INVALID_ARGUMENT", True)
    assert step(client, 1, 1) == 1030
    assert step(client, 1, 1, start=True) == 10
    answer = client.infer("adder", first)
    assert [each.name for each in answer.get_response().outputs] == ["y", "sum_out"]
    assert "missing" in refused(lambda: client.infer("adder", tensors(1)))[1]


def test_states_are_sent_where_they_are_asked_for(client: Any) -> None:
    """By name, as any output."""
    wanted = [triton.InferRequestedOutput("sum_out")]
    answer = client.infer("adder", tensors(3), outputs=wanted, sequence_id=1, sequence_start=True)
    np.testing.assert_array_equal(answer.as_numpy("sum_out"), [[3, 3]])


def test_an_error_leaves_the_state_as_it_was(client: Any, adder: ServedModel, server: Any) -> None:
    """Of the request, of the run, of an output that is none; a start that fails leaves no sequence."""
    step(client, 1, 1, start=True)
    wide = tensors(1)
    wide[0].set_shape([2, 1])
    calls: list[tuple[str, Callable[[], object]]] = [
        ("INVALID_ARGUMENT", lambda: client.infer("adder", wide, sequence_id=1)),
        ("INVALID_ARGUMENT", lambda: client.infer("adder", tensors(1, batch=3), sequence_id=1)),
        ("INVALID_ARGUMENT", lambda: step(client, 1, 1, parameters={"slo_ms": -1})),
        ("INVALID_ARGUMENT", lambda: step(client, 1, 1, parameters={"wrong": 1})),
        (
            "INVALID_ARGUMENT",
            lambda: client.infer("adder", tensors(1), outputs=[triton.InferRequestedOutput("z")], sequence_id=1),
        ),
        ("INTERNAL", lambda: step(client, float("nan"), 1)),
        ("INTERNAL", lambda: step(client, float("nan"), 1, end=True)),
    ]
    for status, call in calls:
        assert refused(call)[0] == status
        assert kept(server) == (1, 8)
    engine: Any = adder.engine
    engine.error = OverloadedError("shed", 5.0)
    assert refused(lambda: step(client, 1, 1))[0] == "RESOURCE_EXHAUSTED"
    engine.error = None
    assert step(client, 1, 1) == 20
    assert refused(lambda: step(client, float("nan"), 1, start=True))[0] == "INTERNAL"
    assert kept(server) == (0, 0)
    assert refused(lambda: step(client, 1, 1))[0] == "FAILED_PRECONDITION"


def test_a_request_that_fails_does_not_keep_its_sequence(client: Any, server: Any) -> None:
    """It costs the client nothing, so it does not put off the end of the idle time."""
    store = server._dataplane.sequences
    step(client, 1, 1, start=True)
    (sequence,) = store._all.values()
    used_s = sequence.used_s
    for parameters in ({"slo_ms": -1}, {"wrong": 1}):
        refused(lambda parameters=parameters: step(client, 1, 1, parameters=parameters))
    refused(lambda: step(client, float("nan"), 1))
    assert sequence.used_s == used_s
    step(client, 1, 1)
    assert sequence.used_s > used_s


def test_a_batch_of_sequences_keeps_its_number(client: Any) -> None:
    """Zeros for each sample at the start; another number later is refused."""
    answer = client.infer("adder", tensors(1, batch=3), sequence_id=1, sequence_start=True)
    assert answer.as_numpy("y").shape == (3, 2)
    assert "request is 1, that of the states of sequence 1 is 3" in refused(lambda: step(client, 1, 1))[1]
    assert client.infer("adder", tensors(1, batch=3), sequence_id=1).as_numpy("y")[2, 1] == 20


def test_more_than_the_limits_is_refused_with_a_hint(client: Any, server: Any) -> None:
    """Of sequences and of bytes. An end makes room."""
    for sequence in range(1, 9):
        step(client, 1, sequence, start=True)
    status, said = refused(lambda: step(client, 1, 9, start=True))
    assert status == "RESOURCE_EXHAUSTED"
    assert "8 of at most 8 sequences" in said
    assert "retry after" in said
    step(client, 1, 8, end=True)
    assert step(client, 1, 9, start=True) == 10
    status, said = refused(lambda: client.infer("adder", tensors(1, batch=2), sequence_id=1, sequence_start=True))
    assert (status, "64 bytes" in said) == ("RESOURCE_EXHAUSTED", True)
    assert kept(server) == (7, 56)
    huge = refused(lambda: client.infer("adder", tensors(1, batch=9), sequence_id=1, sequence_start=True))
    assert (huge[0], "retry" in huge[1]) == ("RESOURCE_EXHAUSTED", False)


def test_rest_has_sequences_too(server: Any) -> None:
    """By tritonclient, and in plain JSON; a sequence may change its transport."""
    import tritonclient.http as rest

    with rest.InferenceServerClient(server.http_address) as client:
        x = rest.InferInput("x", [1, 2], "FP32")
        x.set_data_from_numpy(np.full((1, 2), 2, np.float32))
        answer = client.infer("adder", [x], sequence_id=3, sequence_start=True)
        assert answer.as_numpy("y")[0, 0] == 20
    body = {
        "parameters": {"sequence_id": 3, "sequence_end": True},
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 1.0]}],
    }
    url = f"http://{server.http_address}/v2/models/adder/infer"
    answer = json.load(urllib.request.urlopen(url, json.dumps(body).encode()))
    assert [each["data"] for each in answer["outputs"] if each["name"] == "y"] == [[30.0, 30.0]]
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url, json.dumps(body).encode())
    assert caught.value.code == 400
    assert "keeps no sequence 3" in caught.value.read().decode()


def test_the_configuration_says_what_is_kept(client: Any) -> None:
    """As Triton's: tools that read it then send sequences, and leave the states out."""
    config = client.get_model_config("adder").config
    batching = config.sequence_batching
    assert [(each.input_name, each.output_name, list(each.dims)) for each in batching.state] == [
        ("sum", "sum_out", [-1, 2])
    ]
    assert batching.max_sequence_idle_microseconds == 600_000_000
    assert [each.optional for each in config.input] == [False, True]
    assert "sequence" in client.get_server_metadata().extensions


def test_models_without_a_state_take_no_sequences(make_model: Callable[..., Any]) -> None:
    """Their configuration has no word of them."""
    assert not config_message(make_model(), 1 << 20).HasField("sequence_batching")


def test_many_sequences_in_a_random_order(server: Any) -> None:
    """Starts, ends, restarts and unknown ones, each with the sum of its own requests, against a table of sums."""
    rng = random.Random(11)
    sums: dict[int, float] = {}
    with triton.InferenceServerClient(server.address) as client:
        for _ in range(300):
            sequence, value = rng.randrange(1, 6), float(rng.randrange(100))
            start, end = rng.random() < 0.2, rng.random() < 0.2
            if not start and sequence not in sums:
                with pytest.raises(Error, match="keeps no sequence"):
                    step(client, value, sequence, end=end)
                continue
            sums[sequence] = (0.0 if start else sums[sequence]) + value
            assert step(client, value, sequence, start, end) == 10 * sums[sequence]
            if end:
                del sums[sequence]
        assert kept(server) == (len(sums), 8 * len(sums))


def test_clients_do_not_share_their_ids(adder: ServedModel, serve: Callable[..., Any], tmp_path: Any) -> None:
    """Two tokens, one id: each has a sum of its own, and ends its own."""
    tokens = [f"{name}-0123456789abcdef" for name in ("one", "two")]
    (tmp_path / "tokens").write_text("".join(f"{each[:3]} inference {each}\n" for each in tokens), encoding="utf-8")
    config = ServerConfig(port=0, security=SecurityConfig(token_file=tmp_path / "tokens"))
    with serve([adder], config) as server, triton.InferenceServerClient(server.address) as client:
        one, two = ({"authorization": f"Bearer {each}"} for each in tokens)
        assert step(client, 1, 7, start=True, headers=one) == 10
        with pytest.raises(Error, match="keeps no sequence 7 of this client"):
            step(client, 5, 7, headers=two)
        assert step(client, 5, 7, start=True, headers=two) == 50
        assert [step(client, 1, 7, headers=one, end=True), step(client, 1, 7, headers=two)] == [20, 60]
        with pytest.raises(Error, match="keeps no sequence 7 of this client"):
            step(client, 5, 7, headers=one)


def test_a_model_that_is_loaded_again_loses_its_sequences(
    adder: ServedModel, serve: Callable[..., Any], tmp_path: Any
) -> None:
    """With an error that says so; one whose file is the same keeps them."""
    path = tmp_path / "adder" / "1" / "model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"old")
    repository = Repository(ModelFolder(tmp_path), FakeLoader(lambda name, version: replace(adder, engine=Adder())))
    repository.load_all()
    with serve([], None, repository) as server, triton.InferenceServerClient(server.address) as client:
        step(client, 1, 7, start=True)
        client.load_model("adder")
        assert step(client, 2, 7) == 30
        path.unlink()
        path.write_bytes(b"newer")
        client.load_model("adder")
        status, said = refused(lambda: step(client, 1, 7))
        assert (status, "the model was loaded again" in said) == ("FAILED_PRECONDITION", True)
        assert step(client, 4, 7, start=True) == 40
        assert server._dataplane.sequences.lost["adder", "unloaded"] == 1
        client.unload_model("adder")
        assert wait_for(lambda: len(server._dataplane.sequences) == 0)
        assert refused(lambda: step(client, 1, 7))[0] == "NOT_FOUND"


def test_any_parameters_are_answered(client: Any, server: Any) -> None:
    """Random kinds and values: an answer or a status of the table, and never a state that nothing holds."""
    rng = random.Random(2)
    values: list[Any] = [True, False, 0, 1, 2, -1, 2**62, "", "a", "1", 1.5]
    statuses = set()
    for _ in range(300):
        names = ("sequence_id", "sequence_start", "sequence_end")
        given = {name: rng.choice(values) for name in names if rng.random() < 0.8}
        request = messages.ModelInferRequest(model_name="adder")
        for name, value in given.items():
            kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
            setattr(request.parameters[name], kind, value)
        for name in ("x", "sum")[: rng.randrange(1, 3)]:
            request.inputs.add(name=name, datatype="FP32", shape=[1, 2])
            request.raw_input_contents.append(bytes(8))
        with stub(server) as infer:
            try:
                infer(request)
                statuses.add("OK")
            except grpc.RpcError as error:
                statuses.add(error.code().name)
    assert statuses == {"OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION"}
    store = server._dataplane.sequences
    assert store.counts["adder"] == [len(store), 8 * len(store)]
    assert visits(server) == 0


def test_the_header_of_a_sequence_is_known_after_two_requests(adder: ServedModel) -> None:
    """The next ones are read without protobuf, with their own values; what is wrong with them stays wrong."""
    metrics = Metrics()
    metrics.watch(adder)

    async def scene() -> None:
        dataplane = Dataplane([adder])
        servicer = Servicer(dataplane, metrics)

        async def y(data: bytes) -> tuple[type, float]:
            request = await servicer.read_infer(data)
            answer = await servicer.infer(request, time.monotonic(), None)
            return type(request), y_of(messages.ModelInferResponse.FromString(answer))

        def plain(value: float) -> bytes:
            request = asked(value, 1)
            del request.parameters["sequence_start"], request.parameters["sequence_end"]
            return bytes(request.SerializeToString(deterministic=True))

        await y(asked(1, 1, start=True).SerializeToString())
        assert [await y(plain(value)) for value in (2, 3, 4)] == [
            (InferRequest, 30), (InferRequest, 60), (KnownRequest, 100)
        ]  # fmt: skip
        assert dataplane.sequences.counts["adder"] == [1, 8]
        for wrong in (plain(1).replace(b"\x01x", b"\x01z"), plain(1).replace(b"sequence_id", b"priority\x00\x00\x00")):
            for _ in range(3):
                with pytest.raises(InputError):
                    await y(wrong)
        without = asked(1, 0)
        without.parameters.clear()
        for _ in range(3):
            with pytest.raises(InputError, match="missing"):
                await y(without.SerializeToString())
        assert await y(plain(5)) == (KnownRequest, 150)
        dataplane.sequences.close()

    asyncio.run(scene())
