"""Failures: no request is answered from a state that lacks one before it, also where it was refused at the door."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from adder import asked, kept, stub, visits, y_of
from clients import wait_for

from nested_sparse.proto import messages
from nested_sparse.serving.served_model import ServedModel


class Stream:
    """A stream of one request at a time; `ask` gives y, or the message of the error."""

    def __init__(self, server: Any) -> None:
        self._channel = grpc.insecure_channel(server.address)
        self._requests: list[Any] = []
        self._more = threading.Semaphore(0)
        method = self._channel.stream_stream(
            f"/{messages.SERVICE_NAME}/ModelStreamInfer",
            request_serializer=lambda request: request if isinstance(request, bytes) else request.SerializeToString(),
            response_deserializer=messages.ModelStreamInferResponse.FromString,
        )
        self._answers = method(self._written(), timeout=60)

    def ask(self, request: Any) -> float | str:
        self._requests.append(request)
        self._more.release()
        answer = next(self._answers)
        return str(answer.error_message) or y_of(answer.infer_response)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.append(None)
        self._more.release()
        assert list(self._answers) == []
        self._channel.close()

    def _written(self) -> Iterator[Any]:
        while True:
            self._more.acquire()
            if (request := self._requests.pop(0)) is None:
                return
            yield request


def wrong(**parameters: Any) -> Any:
    """A request of sequence 1 with these parameters in place of its own."""
    request = asked(9, 1)
    for name, (kind, value) in parameters.items():
        request.parameters[name].Clear()
        setattr(request.parameters[name], kind, value)
    return request


def of_version(version: str) -> Any:
    request = asked(9, 1)
    request.model_version = version
    return request


REFUSED: dict[str, Callable[[], Any]] = {
    "fails": lambda: asked(float("nan"), 1),
    "an unknown parameter": lambda: wrong(other=("int64_param", 1)),
    "an end of the wrong type": lambda: wrong(sequence_end=("int64_param", 0)),
    "a start of the wrong type": lambda: wrong(sequence_start=("string_param", "true")),
    "an id of the wrong type": lambda: wrong(sequence_id=("double_param", 1.0)),
    "no such version": lambda: of_version("3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_stream_goes_on_with_none_behind_a_failure(server: Any, case: str) -> None:
    """However late the next one is read, because it may have been written before. Other sequences do not suffer.

    In a new stream the client goes on from the last answer; in the same one it starts anew.
    """
    with Stream(server) as stream:
        assert [stream.ask(asked(1, 1, start=True)), stream.ask(asked(5, 2, start=True))] == [10, 50]
        assert "sequence" in str(stream.ask(REFUSED[case]())) or case in (
            "fails",
            "an unknown parameter",
            "no such version",
        )
        for value in (2, 3):
            assert "a request before it in sequence 1 failed" in str(stream.ask(asked(value, 1)))
        assert stream.ask(asked(1, 2)) == 60
        with Stream(server) as other:
            assert other.ask(asked(4, 1)) == 50
        assert "a request before it in sequence 1 failed" in str(stream.ask(asked(2, 1)))
        assert [stream.ask(asked(7, 1, start=True)), stream.ask(asked(1, 1))] == [70, 80]
    with stub(server) as infer:
        assert y_of(infer(asked(1, 1))) == 90


@pytest.mark.parametrize("case", ["no message", "an id of no type", "an id that is none", "no such model"])
def test_a_request_of_no_known_sequence_counts_for_all_of_its_stream(server: Any, case: str) -> None:
    """But for those that start anew behind it."""
    request: Any = {
        "no message": b"\xff\xff",
        "an id of no type": wrong(sequence_id=("bool_param", True)),
        "an id that is none": wrong(sequence_id=("double_param", float("nan"))),
        "no such model": asked(1, 1),
    }[case]
    if case == "no such model":
        request.model_name = "other"
    with Stream(server) as stream, stub(server) as infer:
        infer(asked(1, 1, start=True))
        assert stream.ask(asked(5, 2, start=True)) == 50
        assert isinstance(stream.ask(request), str)
        for sequence in (1, 2):
            assert f"a request before it in sequence {sequence} failed" in str(stream.ask(asked(1, sequence)))
        assert [stream.ask(asked(7, 2, start=True)), stream.ask(asked(1, 2))] == [70, 80]
        assert y_of(infer(asked(1, 1))) == 20


@pytest.mark.parametrize("case", REFUSED)
def test_calls_at_once_go_on_with_none_behind_a_failure(server: Any, adder: ServedModel, case: str) -> None:
    """Of a client that sends ahead: also when nothing of it is under way any more. Those before are answered."""
    engine: Any = adder.engine
    with stub(server) as infer:
        infer(asked(1, 1, start=True))
        engine.held = True
        running = [infer.future(asked(value, 1)) for value in (2, 3)]
        assert wait_for(lambda: visits(server) == 2)
        failing = infer.future(REFUSED[case]())
        for _ in running:
            engine.answer_next()
        assert failing.exception(60).code() is not grpc.StatusCode.OK
        assert [y_of(each.result(60)) for each in running] == [30, 60]
        engine.held = False
        with pytest.raises(grpc.RpcError) as caught:
            infer(asked(4, 1))
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert wait_for(lambda: kept(server) == (0, 0))
        assert y_of(infer(asked(5, 1, start=True))) == 50


@pytest.mark.parametrize("case", REFUSED)
def test_one_call_at_a_time_goes_on_after_an_error(server: Any, case: str) -> None:
    """Its client has seen it."""
    with stub(server) as infer:
        infer(asked(1, 1, start=True))
        with pytest.raises(grpc.RpcError):
            infer(REFUSED[case]())
        assert y_of(infer(asked(2, 1))) == 30


def test_a_start_that_is_refused_forgets_the_old_state(server: Any) -> None:
    """Else a client that overlooks its error goes on from there."""
    with stub(server) as infer:
        infer(asked(1, 1, start=True))
        refused = wrong(sequence_start=("bool_param", True), sequence_end=("int64_param", 1))
        with pytest.raises(grpc.RpcError):
            infer(refused)
        with pytest.raises(grpc.RpcError, match="keeps no sequence 1"):
            infer(asked(2, 1))


def test_two_streams_of_one_sequence_are_both_refused(server: Any) -> None:
    """Each has a failure; then there is no source left that may go on."""
    with Stream(server) as one, Stream(server) as two, stub(server) as infer:
        assert [one.ask(asked(1, 1, start=True)), two.ask(asked(2, 1))] == [10, 30]
        for stream in (one, two):
            assert isinstance(stream.ask(asked(np.nan, 1)), str)
        with pytest.raises(grpc.RpcError, match="keeps no sequence 1"):
            infer(asked(3, 1))
        assert isinstance(one.ask(asked(3, 1)), str)
