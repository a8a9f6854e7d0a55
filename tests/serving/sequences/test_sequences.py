"""Sequences over the wire: an adder that keeps its sum, with a runtime that answers when the test says so."""

from __future__ import annotations

import asyncio
import json
import queue
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from clients import infer_stub, wait_for
from fake_repository import FakeLoader

from nested_sparse.errors import DeadlineError, InputError, OverloadedError
from nested_sparse.level import Level
from nested_sparse.proto import messages
from nested_sparse.runtime.scheduling.request import Request, Response, time_limit_ms
from nested_sparse.runtime.scheduling.run_counts import RunCounts
from nested_sparse.runtime.scheduling.stats import SchedulerStats
from nested_sparse.runtime.session.tensors import check_inputs
from nested_sparse.serving.connections.calls import Calls
from nested_sparse.serving.dataplane import Dataplane
from nested_sparse.serving.metrics import Metrics
from nested_sparse.serving.model_config import config_message
from nested_sparse.serving.protocol.convert import InferRequest
from nested_sparse.serving.protocol.known_headers import KnownRequest
from nested_sparse.serving.repository.folder import ModelFolder
from nested_sparse.serving.repository.repository import Repository
from nested_sparse.serving.security import SecurityConfig
from nested_sparse.serving.sequences.store import SequenceLimits
from nested_sparse.serving.sequences.visit import MOST_VISITS
from nested_sparse.serving.served_model import ServedModel
from nested_sparse.serving.server import ServerConfig
from nested_sparse.serving.servicer import Servicer
from nested_sparse.serving.streaming import Streaming
from nested_sparse.tensor_spec import TensorSpec

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
Error = pytest.importorskip("tritonclient.utils", reason="tritonclient is not installed").InferenceServerException

X, SUM = TensorSpec("x", "float32", (None, 2), (1, 2)), TensorSpec("sum", "float32", (None, 2), (1, 2))
Y, SUM_OUT = TensorSpec("y", "float32", (None, 2), (1, 2)), TensorSpec("sum_out", "float32", (None, 2), (1, 2))


class Adder:
    """y is ten times the sum of all x so far, sum_out the sum. While `held`, requests stay in `pending`.

    Later requests whose x has NaN fail.
    """

    def __init__(self) -> None:
        self.held = False
        self.pending: list[tuple[Future[Response], Callable[[], Response]]] = []
        self.error: Exception | None = None

    def submit(self, request: Request) -> Future[Response]:
        future: Future[Response] = Future()
        try:
            limit_ms = time_limit_ms(request, 60_000.0)
            arrays = check_inputs((X, SUM), request.inputs)
            if self.error is not None:
                raise self.error
            if np.isnan(arrays["x"]).any():
                raise RuntimeError("cannot")
        except Exception as error:
            future.set_exception(error)
            return future

        def response() -> Response:
            total = arrays["sum"] + arrays["x"]
            return Response({"y": 10 * total, "sum_out": total}, Level(0, 1.0, 1, 1, {}), 1, 1, "fake", limit_ms)

        if self.held:
            self.pending.append((future, response))
        else:
            future.set_result(response())
        return future

    def close(self, grace_s: float) -> None:
        """Nothing to close."""

    def stats(self) -> SchedulerStats:
        return SchedulerStats(0, 1.0, 0, RunCounts().total, {})

    def answer_next(self) -> None:
        """Answer the request that came first, once it is there."""
        assert wait_for(lambda: self.pending)
        future, response = self.pending.pop(0)
        if not future.cancelled():
            future.set_result(response())


@pytest.fixture
def adder() -> ServedModel:
    state = {"sum_out": "sum"}
    return ServedModel(
        "adder", (X, SUM), (Y, SUM_OUT), (Level(0, 1.0, 1, 1, {}),), Adder(), 60_000.0, 1, "scalar", state=state
    )


@pytest.fixture
def server(adder: ServedModel, serve: Callable[..., Any]) -> Iterator[Any]:
    config = ServerConfig(port=0, http_port=0, grace_s=5, sequences=SequenceLimits(8, 64, 600.0))
    with serve([adder], config) as it:
        yield it


@pytest.fixture
def client(server: Any) -> Iterator[Any]:
    with triton.InferenceServerClient(server.address) as it:
        yield it


def tensors(value: float, batch: int = 1, name: str = "x") -> list[Any]:
    x = triton.InferInput(name, [batch, 2], "FP32")
    x.set_data_from_numpy(np.full((batch, 2), value, np.float32))
    return [x]


def step(client: Any, value: float, sequence: int | str, start: bool = False, end: bool = False, **more: Any) -> float:
    """One request of a sequence; its y."""
    answer = client.infer("adder", tensors(value), sequence_id=sequence, sequence_start=start, sequence_end=end, **more)
    assert [each.name for each in answer.get_response().outputs] == ["y"]
    return float(answer.as_numpy("y")[0, 0])


def refused(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(Error) as caught:
        call()
    return str(caught.value.status()).removeprefix("StatusCode."), caught.value.message()


def kept(server: Any) -> tuple[int, int]:
    """Sequences and bytes that the server keeps, as its metrics say."""
    text = urllib.request.urlopen(f"http://{server.http_address}/metrics").read().decode()
    values = {line.split(" ")[0]: float(line.split(" ")[1]) for line in text.splitlines() if line[0] != "#"}
    return tuple(
        int(values.get(f'nested_sparse_{name}{{model="adder"}}', 0)) for name in ("sequences", "sequence_bytes")
    )


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


def test_a_batch_of_sequences_keeps_its_number(client: Any) -> None:
    """Zeros for each sample at the start; another number later is refused."""
    answer = client.infer("adder", tensors(1, batch=3), sequence_id=1, sequence_start=True)
    assert answer.as_numpy("y").shape == (3, 2)
    assert "input 'sum': its dimension 0, the batch, is 3" in refused(lambda: step(client, 1, 1))[1]
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


def asked(value: float, sequence: int, *, start: bool = False, end: bool = False, **more: Any) -> Any:
    request = messages.ModelInferRequest(model_name="adder", **more)
    request.parameters["sequence_id"].int64_param = sequence
    request.parameters["sequence_start"].bool_param = start
    request.parameters["sequence_end"].bool_param = end
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    request.raw_input_contents.append(np.full((1, 2), value, np.float32).tobytes())
    return request


def y_of(response: Any) -> float:
    return float(np.frombuffer(response.raw_output_contents[0], np.float32)[0])


@contextmanager
def stub(server: Any) -> Iterator[Any]:
    with grpc.insecure_channel(server.address) as channel:
        yield infer_stub(channel)


def test_requests_at_once_run_one_by_one(server: Any, adder: ServedModel) -> None:
    """Those of one sequence; others do not wait for them."""
    engine: Any = adder.engine
    with stub(server) as infer:
        infer(asked(1, 1, start=True))
        engine.held = True
        first = infer.future(asked(2, 1))
        assert wait_for(lambda: len(engine.pending) == 1)
        second = infer.future(asked(3, 1))
        other = infer.future(asked(4, 2, start=True))
        assert wait_for(lambda: len(engine.pending) == 2)
        engine.answer_next()
        engine.answer_next()
        assert y_of(other.result(60)) == 40
        engine.answer_next()
        assert (y_of(first.result(60)), y_of(second.result(60))) == (30, 60)


def test_those_behind_a_failure_fail_too_and_the_state_stays(server: Any, adder: ServedModel) -> None:
    """They were sent for a state that did not come. One that starts anew does not depend on it."""
    engine: Any = adder.engine
    with stub(server) as infer:
        infer(asked(1, 1, start=True))
        engine.held = True
        running = infer.future(asked(2, 1))
        assert wait_for(lambda: engine.pending)
        behind = [infer.future(asked(value, 1)) for value in (3, 4)]
        assert wait_for(lambda: visits(server) == 3)
        running.cancel()
        for each in behind:
            with pytest.raises(grpc.RpcError) as caught:
                each.result(60)
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "the request before it in sequence 1 failed" in caught.value.details()
        engine.held = False
        assert y_of(infer(asked(5, 1))) == 60
        engine.held, engine.pending = True, []
        running = infer.future(asked(2, 1))
        assert wait_for(lambda: engine.pending)
        anew = infer.future(asked(7, 1, start=True))
        assert wait_for(lambda: visits(server) == 2)
        running.cancel()
        engine.pending.clear()
        engine.answer_next()
        assert y_of(anew.result(60)) == 70


def visits(server: Any) -> int:
    return sum(each.visits for each in list(server._dataplane.sequences._all.values()))


def test_a_start_behind_one_that_gave_up_waits_for_those_before(server: Any, adder: ServedModel) -> None:
    """Else the answer of an older request would come later, and its state would be the one that stays."""
    engine: Any = adder.engine
    with stub(server) as infer:
        infer(asked(1, 1, start=True))
        engine.held = True
        running = infer.future(asked(2, 1))
        assert wait_for(lambda: len(engine.pending) == 1)
        gives_up = infer.future(asked(3, 1))
        assert wait_for(lambda: visits(server) == 2)
        gives_up.cancel()
        assert wait_for(lambda: visits(server) == 1)
        anew = infer.future(asked(4, 1, start=True))
        assert wait_for(lambda: visits(server) == 2)
        other = infer.future(asked(5, 2, start=True))
        assert wait_for(lambda: len(engine.pending) == 2)
        engine.answer_next()
        engine.answer_next()
        assert (y_of(running.result(60)), y_of(other.result(60))) == (30, 50)
        engine.answer_next()
        engine.held = False
        assert (y_of(anew.result(60)), y_of(infer(asked(1, 1)))) == (40, 50)


def test_a_stream_reads_its_requests_one_after_the_other() -> None:
    """Also where one takes long to read, because it is compressed."""
    order: list[bytes] = []

    class Context:
        """A call with two requests; it takes their answers."""

        def __init__(self) -> None:
            self.requests = [b"slow", b"quick"]
            self.answers: list[bytes] = []

        def invocation_metadata(self) -> tuple[()]:
            return ()

        def auth_context(self) -> dict[str, list[bytes]]:
            return {}

        def peer(self) -> str:
            return "ipv4:127.0.0.1:1"

        def time_remaining(self) -> None:
            return None

        def add_done_callback(self, callback: Any) -> None:
            """Nothing ends."""

        async def read(self) -> Any:
            return self.requests.pop(0) if self.requests else grpc.aio.EOF

        async def write(self, answer: bytes) -> None:
            self.answers.append(answer)

    async def read(data: bytes) -> Any:
        for _ in range(50 if data == b"slow" else 0):
            await asyncio.sleep(0)
        order.append(data)
        return SimpleNamespace(message=SimpleNamespace(id=""))

    async def infer(request: Any, received_s: float, left_s: float | None) -> bytes:
        return b""

    async def scene() -> int:
        context = Context()
        streaming = Streaming(read, infer, Calls(), 1 << 20, time.monotonic, lambda metadata: None)
        await streaming.model_stream_infer(None, context)
        return len(context.answers)

    assert (asyncio.run(scene()), order) == (2, [b"slow", b"quick"])


def test_a_deadline_that_passes_leaves_the_state(server: Any, adder: ServedModel) -> None:
    """While the request runs, and while it waits for the one before it."""
    engine: Any = adder.engine
    with stub(server) as infer:
        infer(asked(1, 1, start=True))
        engine.held = True
        running = infer.future(asked(2, 1))
        assert wait_for(lambda: engine.pending)
        waiting = asked(3, 1)
        waiting.parameters["slo_ms"].double_param = 30.0
        with pytest.raises(grpc.RpcError) as caught:
            infer(waiting)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "the request before it in sequence 1" in caught.value.details()
        engine.answer_next()
        assert y_of(running.result(60)) == 30
        with pytest.raises(grpc.RpcError) as caught:
            infer(asked(4, 1), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        engine.held = False
        assert wait_for(lambda: visits(server) == 0)
        assert y_of(infer(asked(5, 1))) == 80


def test_an_answer_that_comes_too_late_does_not_count(adder: ServedModel) -> None:
    """The transport may not have cancelled it yet."""
    metrics = Metrics()
    metrics.watch(adder)

    async def scene() -> list[float]:
        dataplane = Dataplane([adder])
        servicer = Servicer(dataplane, metrics)

        async def y(value: float, late: bool = False, **flags: bool) -> float:
            request = await servicer.read_infer(asked(value, 1, **flags).SerializeToString())
            data = await servicer.infer(request, time.monotonic() - (10.0 if late else 0.0), 5.0)
            return y_of(messages.ModelInferResponse.FromString(data))

        first = await y(1, start=True)
        with pytest.raises(DeadlineError, match="before the answer was made"):
            await y(2, late=True)
        with pytest.raises(DeadlineError):
            await y(2, late=True, end=True)
        found = [first, await y(3)]
        dataplane.sequences.close()
        return found

    assert asyncio.run(scene()) == [10, 40]


def test_those_that_wait_while_the_server_drains_are_told_so(adder: ServedModel, serve: Callable[..., Any]) -> None:
    """UNAVAILABLE, also those behind them; the one that runs is answered."""
    engine: Any = adder.engine
    with ThreadPoolExecutor(1) as pool:
        with serve([adder]) as server:
            channel = grpc.insecure_channel(server.address)
            infer = infer_stub(channel)
            engine.held = True
            running = infer.future(asked(1, 1, start=True))
            assert wait_for(lambda: engine.pending)
            behind = [infer.future(asked(value, 1)) for value in (2, 3)]
            assert wait_for(lambda: visits(server) == 3)
            answering = pool.submit(lambda: (wait_for(lambda: not server._dataplane.ready), engine.answer_next()))
        answering.result(60)
        assert y_of(running.result(60)) == 10
        assert [each.exception(60).code() for each in behind] == [grpc.StatusCode.UNAVAILABLE] * 2
        channel.close()


def test_a_line_is_bounded(server: Any, adder: ServedModel) -> None:
    """A sequence takes only so many requests at once."""
    engine: Any = adder.engine
    engine.held = True
    with stub(server) as infer:
        calls = [infer.future(asked(1, 1, start=True)) for _ in range(MOST_VISITS)]
        assert wait_for(lambda: visits(server) == MOST_VISITS)
        with pytest.raises(grpc.RpcError) as caught:
            infer(asked(1, 1))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for _ in calls:
            engine.answer_next()
        assert {y_of(call.result(60)) for call in calls} == {10.0}


def test_a_stream_keeps_its_order(server: Any) -> None:
    """Sent without waiting, with requests that take a thread to read, and two sequences in turns."""
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(server.address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        expected, totals = [], {1: 0.0, 2: 0.0}
        for place in range(40):
            sequence, value = 1 + place % 2, float(place)
            totals[sequence] += value
            expected.append(10 * totals[sequence])
            client.async_stream_infer(
                "adder", tensors(value), sequence_id=sequence, sequence_start=place < 2, sequence_end=place >= 38
            )
        got = [answers.get(timeout=60) for _ in expected]
        client.stop_stream()
    assert [error for _, error in got if error is not None] == []
    assert [result.as_numpy("y")[0, 0] for result, _ in got] == expected
    assert kept(server) == (0, 0)


def test_a_small_request_does_not_overtake_a_large_one(adder: ServedModel, serve: Callable[..., Any]) -> None:
    """In a stream: many typed values are read by another thread than few."""
    batch = 9000

    def wide(value: float, **flags: bool) -> Any:
        request = asked(value, 1, **flags)
        request.inputs[0].shape[0] = batch
        request.raw_input_contents[0] *= batch
        return request

    large = wide(1, start=True)
    del large.raw_input_contents[:]
    large.inputs[0].contents.fp32_contents.extend([1.0] * 2 * batch)
    with serve([adder]) as server, grpc.insecure_channel(server.address) as channel:
        stream = channel.stream_stream(
            f"/{messages.SERVICE_NAME}/ModelStreamInfer",
            request_serializer=messages.ModelInferRequest.SerializeToString,
            response_deserializer=messages.ModelStreamInferResponse.FromString,
        )
        requests = [large, wide(2), wide(3), wide(4, end=True)]
        assert [y_of(each.infer_response) for each in stream(iter(requests))] == [10, 30, 60, 100]


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


def test_one_sequence_from_many_threads_counts_each_answer_once(server: Any, adder: ServedModel) -> None:
    """Some requests fail, and those behind them; each answer is the sum of all answered before, in some order."""
    engine: Any = adder.engine
    with triton.InferenceServerClient(server.address) as client:
        step(client, 0, 1, start=True)
    engine.held = True
    ended = threading.Event()
    statuses: set[str] = set()

    def answering() -> None:
        while not ended.is_set():
            if engine.pending:
                engine.answer_next()
            else:
                time.sleep(0.0005)

    def asking(number: int) -> list[tuple[float, float]]:
        rng, found = random.Random(number), []
        with triton.InferenceServerClient(server.address) as client:
            for _ in range(25):
                value = float(rng.randrange(1, 100))
                try:
                    found.append((value, step(client, float("nan") if rng.random() < 0.2 else value, 1)))
                except Error as error:
                    statuses.add(str(error.status()))
        return found

    with ThreadPoolExecutor(7) as pool:
        answers = pool.submit(answering)
        answered = [each for done in [pool.submit(asking, number) for number in range(6)] for each in done.result(120)]
        ended.set()
        answers.result(60)
    total = 0.0
    for value, y in sorted(answered, key=lambda each: each[1]):
        total += value
        assert y == 10 * total
    assert answered
    assert statuses <= {"StatusCode.INTERNAL", "StatusCode.FAILED_PRECONDITION"}


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
