"""Adder: a served model that keeps its sum, with a runtime that answers when the test says so."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from clients import infer_stub, wait_for

from nested_sparse.level import Level
from nested_sparse.proto import messages
from nested_sparse.runtime.scheduling.request import Request, Response, time_limit_ms
from nested_sparse.runtime.scheduling.run_counts import RunCounts
from nested_sparse.runtime.scheduling.stats import SchedulerStats
from nested_sparse.runtime.session.tensors import check_inputs
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

    def run_or_queue(self, request: Request) -> Future[Response]:
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

    def replied(self, response: Response) -> None:
        """It learns nothing."""

    def stats(self) -> SchedulerStats:
        return SchedulerStats(0, 1.0, 0, RunCounts().total, {})

    def answer_next(self) -> None:
        """Answer the request that came first, once it is there."""
        assert wait_for(lambda: self.pending)
        future, response = self.pending.pop(0)
        if not future.cancelled():
            future.set_result(response())


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


def visits(server: Any) -> int:
    return sum(each.visits for each in list(server._dataplane.sequences._all.values()))
