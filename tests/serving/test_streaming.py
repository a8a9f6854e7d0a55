"""ModelStreamInfer: tritonclient's streams, and plain gRPC ones for what it does not do."""

from __future__ import annotations

import asyncio
import queue

import grpc
import numpy as np
import pytest
from clients import X, tensor, typed_request, wait_for

from nested_sparse.errors import OverloadedError
from nested_sparse.proto import messages
from nested_sparse.serving.server import LEAST_MESSAGE_BYTES
from nested_sparse.serving.streaming import MOST_UNANSWERED

PATIENCE_S = 60.0


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.address) as it:
        yield it


def stream_stub(channel):
    """ModelStreamInfer by plain gRPC; bytes are sent as they are."""
    return channel.stream_stream(
        f"/{messages.SERVICE_NAME}/ModelStreamInfer",
        request_serializer=lambda each: each if isinstance(each, bytes) else each.SerializeToString(),
        response_deserializer=messages.ModelStreamInferResponse.FromString,
    )


def asked(id_, model="net"):
    request = typed_request(model)
    request.id = id_
    return request


class Sending:
    """Requests that are sent one by one, while the stream is open; counts those that gRPC took."""

    def __init__(self):
        self.taken = 0
        self._queue = queue.Queue()

    def __iter__(self):
        return self

    def __next__(self):
        request = self._queue.get()
        if request is None:
            raise StopIteration
        self.taken += 1
        return request

    def put(self, *requests):
        for request in requests:
            self._queue.put(request)

    def end(self):
        self._queue.put(None)


def test_tritonclient_streams(client):
    """Answers come in order, each the last of its request, with the values of unary calls."""
    answers: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for index in range(40):
        client.async_stream_infer("net", [tensor(X + index)], request_id=str(index), enable_empty_final_response=True)
    got = [answers.get(timeout=PATIENCE_S) for _ in range(40)]
    client.stop_stream()
    assert [error for _, error in got if error is not None] == []
    assert [result.get_response().id for result, _ in got] == [str(index) for index in range(40)]
    for index, (result, _) in enumerate(got):
        np.testing.assert_array_equal(result.as_numpy("double"), 2 * (X + index))
        assert result.get_response().parameters["triton_final_response"].bool_param
        assert result.get_response().parameters["level"].int64_param == 2
    assert answers.empty()


def test_an_error_is_a_message_in_the_stream(client, model):
    """The stream goes on behind it; the message is that of a unary call."""
    answers: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("other", [tensor()], request_id="a")
    client.async_stream_infer("net", [tensor(name="z")], request_id="b")
    client.async_stream_infer("net", [tensor()], request_id="c")
    first, second, third = (answers.get(timeout=PATIENCE_S) for _ in range(3))
    assert "no model 'other'" in first[1].message()
    assert "'z'" in second[1].message()
    assert (third[0].get_response().id, third[1]) == ("c", None)
    model.engine.error = OverloadedError("shed: level 0 needs 9 ms", 12.2)
    client.async_stream_infer("net", [tensor()])
    assert answers.get(timeout=PATIENCE_S)[1].message() == "shed: level 0 needs 9 ms; retry after 13 ms"
    client.stop_stream()


def test_an_error_names_its_request(channel):
    """The id is beside the message, for clients that look."""
    call = stream_stub(channel)(iter([asked("first", "other"), asked("second")]), timeout=PATIENCE_S)
    first, second = call
    assert (first.infer_response.id, second.infer_response.id) == ("first", "second")
    assert first.error_message
    assert not second.error_message


def test_errors_are_statuses_where_the_header_asks(channel):
    """The first error ends the stream, behind the answers to the requests before it."""
    requests = iter([asked("a"), asked("b", "other"), asked("c")])
    call = stream_stub(channel)(requests, timeout=PATIENCE_S, metadata=(("triton_grpc_error", "true"),))
    assert next(call).infer_response.id == "a"
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert "no model 'other'" in caught.value.details()
    call = stream_stub(channel)(
        iter([asked("b", "other")]), timeout=PATIENCE_S, metadata=(("triton_grpc_error", "false"),)
    )
    assert [each.infer_response.id for each in call] == ["b"]


def test_bytes_that_are_no_request_end_no_stream(channel):
    """Nor does a request that is too large."""
    large = typed_request()
    large.inputs[0].ClearField("contents")
    large.raw_input_contents.append(bytes(LEAST_MESSAGE_BYTES))
    call = stream_stub(channel)(iter([b"\xff\xff", large, asked("last")]), timeout=PATIENCE_S)
    broken, oversized, last = call
    assert "cannot be parsed" in broken.error_message
    assert f"at most {LEAST_MESSAGE_BYTES}" in oversized.error_message
    assert last.infer_response.id == "last"


def test_half_close_answers_what_is_under_way(channel, model):
    """A client that has ended its side gets every answer, then OK."""
    model.engine.held = True
    call = stream_stub(channel)(iter([asked("a"), asked("b")]), timeout=PATIENCE_S)
    assert wait_for(lambda: len(model.engine.pending) == 2)
    for future in reversed(model.engine.pending):
        future.set_result(model.engine.response({"x": X}, 0))
    assert [each.infer_response.id for each in call] == ["a", "b"]
    assert call.code() == grpc.StatusCode.OK


def test_cancel_cancels_each_request(channel, model):
    """The scheduler gets rid of all of them, and the server goes on."""
    model.engine.held = True
    requests = Sending()
    requests.put(asked("a"), asked("b"), asked("c"))
    call = stream_stub(channel)(requests, timeout=PATIENCE_S)
    assert wait_for(lambda: len(model.engine.pending) == 3)
    call.cancel()
    assert wait_for(lambda: all(future.cancelled() for future in model.engine.pending))
    requests.end()
    model.engine.held = False
    assert [each.infer_response.id for each in stream_stub(channel)(iter([asked("d")]))] == ["d"]


def test_the_streams_deadline_is_that_of_its_requests(channel, model):
    """The scheduler knows how long the client waits."""
    list(stream_stub(channel)(iter([asked("a")]), timeout=PATIENCE_S))
    assert 0 < model.engine.requests[0].timeout_ms <= PATIENCE_S * 1000 + 1000


def test_a_stream_has_a_bounded_number_of_requests_in_the_server(channel, model):
    """The next ones are read when the oldest is answered; none is lost."""
    model.engine.held = True
    requests = Sending()
    requests.put(*(asked(str(index)) for index in range(3 * MOST_UNANSWERED)))
    requests.end()
    call = stream_stub(channel)(requests, timeout=PATIENCE_S)
    assert wait_for(lambda: len(model.engine.pending) == MOST_UNANSWERED)
    # everything is sent, and another client's call has gone through the server behind it
    assert wait_for(lambda: requests.taken == 3 * MOST_UNANSWERED)
    ready = channel.unary_unary(f"/{messages.SERVICE_NAME}/ServerReady")(b"", timeout=PATIENCE_S)
    assert messages.ServerReadyResponse.FromString(ready).ready
    assert len(model.engine.pending) == MOST_UNANSWERED
    model.engine.held = False
    for future in list(model.engine.pending):
        future.set_result(model.engine.response({"x": X}, 0))
    assert [each.infer_response.id for each in call] == [str(index) for index in range(3 * MOST_UNANSWERED)]


def test_answers_that_are_not_read_stop_the_stream(channel, model):
    """The server holds a bounded number of answers for a client that does not read; the client gets all in the end."""
    large = np.zeros((50_000, 4), np.float32)
    request = messages.ModelInferRequest(model_name="net")
    request.inputs.add(name="x", datatype="FP32", shape=large.shape)
    request.raw_input_contents.append(large.tobytes())
    call = stream_stub(channel)(iter([request] * 150), timeout=PATIENCE_S)
    assert not wait_for(lambda: len(model.engine.requests) == 150, seconds=2.0)
    assert sum(not each.error_message for each in call) == 150


def test_a_message_beyond_what_grpc_takes_ends_the_stream(channel, model):
    """Requests that are under way are cancelled with it."""
    model.engine.held = True
    large = messages.ModelInferRequest(raw_input_contents=[bytes(2 * LEAST_MESSAGE_BYTES + 1024)])
    call = stream_stub(channel)(iter([asked("a"), large]), timeout=PATIENCE_S)
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert wait_for(lambda: all(future.cancelled() for future in model.engine.pending))


def test_draining_ends_idle_streams(model, serve):
    """An idle stream does not outlive the server, and is told why."""
    with serve([model]) as server:
        channel = grpc.insecure_channel(server.address)
        requests = Sending()
        call = stream_stub(channel)(requests, timeout=PATIENCE_S)
        requests.put(asked("a"))
        assert next(call).infer_response.id == "a"
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "draining" in caught.value.details()
    requests.end()
    channel.close()


def test_tritonclient_aio_streams(server):
    """The asynchronous client of Triton."""
    aio = pytest.importorskip("tritonclient.grpc.aio", reason="tritonclient is not installed")

    async def talk():
        async with aio.InferenceServerClient(server.address) as client:

            async def requests():
                for index in range(5):
                    yield {"model_name": "net", "inputs": [tensor(X + index)], "request_id": str(index)}
                yield {"model_name": "other", "inputs": [tensor()], "request_id": "wrong"}

            return [each async for each in client.stream_infer(requests())]

    *answers, (nothing, error) = asyncio.run(talk())
    for index, (result, no_error) in enumerate(answers):
        assert no_error is None
        np.testing.assert_array_equal(result.as_numpy("double"), 2 * (X + index))
    assert nothing is None
    assert "no model 'other'" in error.message()


def test_counts_are_those_of_unary_calls(client, server):
    """A stream's requests are in the statistics one by one."""
    answers: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error))
    client.async_stream_infer("net", [tensor()])
    client.async_stream_infer("net", [tensor(name="z")])
    assert [answers.get(timeout=PATIENCE_S) is None for _ in range(2)] == [True, False]
    client.stop_stream()
    (stats,) = client.get_inference_statistics("net").model_stats
    assert (stats.inference_stats.success.count, stats.inference_stats.fail.count) == (1, 1)
