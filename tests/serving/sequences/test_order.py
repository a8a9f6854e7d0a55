"""Order: requests of one sequence at the same time, and those that fail, end late or give up."""

from __future__ import annotations

import asyncio
import queue
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from adder import Error, asked, kept, step, stub, tensors, triton, visits, y_of
from clients import infer_stub, wait_for

from nested_sparse.errors import DeadlineError
from nested_sparse.proto import messages
from nested_sparse.serving.connections.calls import Calls
from nested_sparse.serving.dataplane import Dataplane
from nested_sparse.serving.metrics import Metrics
from nested_sparse.serving.sequences.visit import MOST_VISITS
from nested_sparse.serving.served_model import ServedModel
from nested_sparse.serving.servicer import Servicer
from nested_sparse.serving.streaming import Streaming


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


def test_those_behind_a_failure_fail_too(server: Any, adder: ServedModel) -> None:
    """They were sent for a state that did not come, as may be all later ones. A start does not depend on it."""
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
            assert "a request before it in sequence 1 failed" in caught.value.details()
        assert kept(server) == (0, 0)
        engine.held = False
        with pytest.raises(grpc.RpcError, match="failed while other requests of it were under way"):
            infer(asked(5, 1))
        assert y_of(infer(asked(6, 1, start=True))) == 60
        engine.held, engine.pending = True, []
        running = infer.future(asked(2, 1))
        assert wait_for(lambda: engine.pending)
        anew = infer.future(asked(7, 1, start=True))
        assert wait_for(lambda: visits(server) == 2)
        engine.pending.clear()  # before the cancel, behind which the new start may come at any time
        running.cancel()
        engine.answer_next()
        assert y_of(anew.result(60)) == 70


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
    """Of a client that sends one request at a time."""
    engine: Any = adder.engine
    with stub(server) as infer:
        infer(asked(1, 1, start=True))
        engine.held = True
        with pytest.raises(grpc.RpcError) as caught:
            infer(asked(4, 1), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        engine.held = False
        assert wait_for(lambda: visits(server) == 0)
        assert y_of(infer(asked(5, 1))) == 60


def test_a_deadline_may_pass_in_the_line(server: Any, adder: ServedModel) -> None:
    """Those before it are answered, those after it are not."""
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
        with pytest.raises(grpc.RpcError, match="a request before it in sequence 1 failed"):
            infer(asked(4, 1))
        engine.answer_next()
        assert y_of(running.result(60)) == 30
        assert wait_for(lambda: visits(server) == 0)
        assert server._dataplane.sequences.lost == {("adder", "failed"): 1}


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
    """A sequence takes only so many requests at once; those behind one that was not taken in are refused.

    Only a start may succeed when it is sent again.
    """
    engine: Any = adder.engine
    engine.held = True
    with stub(server) as infer:
        calls = [infer.future(asked(1, 1, start=True))]
        assert wait_for(lambda: visits(server) == 1)
        calls += [infer.future(asked(1, 1)) for _ in range(1, MOST_VISITS)]
        assert wait_for(lambda: visits(server) == MOST_VISITS)
        full, behind = "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"
        for start, status, pushback_ms in ((False, full, "-1"), (False, behind, None), (True, full, "10")):
            with pytest.raises(grpc.RpcError) as caught:
                infer(asked(1, 1, start=start))
            assert caught.value.code().name == status
            assert dict(caught.value.trailing_metadata()).get("grpc-retry-pushback-ms") == pushback_ms
        engine.answer_next()
        assert y_of(calls[0].result(60)) == 10
        with pytest.raises(grpc.RpcError, match="a request before it in sequence 1 failed"):
            infer(asked(1, 1))
        for _ in calls[1:]:
            engine.answer_next()
        assert {y_of(call.result(60)) for call in calls} == {10.0 * (1 + place) for place in range(MOST_VISITS)}
        assert wait_for(lambda: len(server._dataplane.sequences) == 0)


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
                    found.append((value, step(client, float("nan") if rng.random() < 0.02 else value, 1)))
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
