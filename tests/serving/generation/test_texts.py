"""Texts in a stream: tritonclient's decoupled responses, and all that can end a text."""

from __future__ import annotations

import queue
import re
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from clients import InferenceServerException, X, tensor, wait_for
from counting_text import LEVELS, counted

from nested_sparse.proto import messages
from nested_sparse.runtime.scheduling.request import Response
from nested_sparse.serving.sequences.store import EVICTED, UNLOADED, SequenceLimits
from nested_sparse.serving.served_model import ServedModel
from nested_sparse.serving.server import ServerConfig

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
PATIENCE_S = 60.0
QUICK = {"tokens_per_s": 1e6}
"""No pause between tokens."""


@pytest.fixture
def server(writer: ServedModel, model: ServedModel, serve: Callable[..., Any]) -> Iterator[Any]:
    """A text model and a plain one."""
    with serve([writer, model]) as it:
        yield it


class Stream:
    """A client with an open stream, and the answers that came."""

    def __init__(self, server: Any) -> None:
        self.client = triton.InferenceServerClient(server.address)
        self.answers: queue.Queue[Any] = queue.Queue()
        self.client.start_stream(lambda result, error: self.answers.put((result, error)))

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_stream(cancel_requests=True)
        self.client.close()

    def ask(self, prompt: bytes, name: str = "", **parameters: Any) -> None:
        self.client.async_stream_infer(
            "count", [prompt_of(prompt)], request_id=name, parameters={**QUICK, **parameters}
        )

    def next(self) -> Any:
        """The next response. Raises its error."""
        result, error = self.answers.get(timeout=PATIENCE_S)
        if error is not None:
            raise error
        return result

    def text(self) -> list[Any]:
        """The responses of one text up to its last one."""
        responses = [self.next()]
        while not responses[-1].get_response().parameters["triton_final_response"].bool_param:
            responses.append(self.next())
        return responses


@pytest.fixture
def stream(server: Any) -> Iterator[Stream]:
    """A stream of tritonclient."""
    with Stream(server) as it:
        yield it


def prompt_of(text: bytes) -> Any:
    """The input of a request for a text."""
    given = triton.InferInput("text_input", [1], "BYTES")
    given.set_data_from_numpy(np.array([text], object))
    return given


def text_of(responses: list[Any]) -> bytes:
    return b"".join(each.as_numpy("text_output")[0] for each in responses)


def kept(server: Any) -> int:
    """Texts and sequences whose state is kept."""
    return len(server._dataplane.sequences)


def test_a_request_gets_a_response_for_each_token(stream: Stream, server: Any) -> None:
    """The last one says so and why; each tells its level. Nothing is kept afterwards."""
    stream.ask(b"ab", "mine", max_tokens=4, level=1)
    responses = stream.text()
    assert text_of(responses) == b"dfhj"
    parameters = [each.get_response().parameters for each in responses]
    assert [each["level"].int64_param for each in parameters] == [1] * 4
    assert [each["triton_final_response"].bool_param for each in parameters] == [False] * 3 + [True]
    assert [each["finish_reason"].string_param for each in parameters] == ["", "", "", "length"]
    assert {each.get_response().id for each in responses} == {"mine"}
    assert wait_for(lambda: kept(server) == 0)


def test_parameters_reach_the_text(stream: Stream, writer: ServedModel) -> None:
    """A stop text, a seed with a temperature, a level's accuracy, a rate, a priority."""
    stream.ask(b"a", max_tokens=50, level=0, stop="ef")
    responses = stream.text()
    assert text_of(responses) == b"bcdef"
    assert responses[-1].get_response().parameters["finish_reason"].string_param == "stop"
    drawn = []
    for seed in (3, 3, 4):
        stream.ask(b"a", max_tokens=12, level=0, temperature=9.0, seed=seed)
        drawn.append(text_of(stream.text()))
    assert drawn[0] == drawn[1] != drawn[2]
    engine: Any = writer.engine
    engine.requests.clear()
    stream.ask(b"a", max_tokens=1, min_accuracy=0.55, tokens_per_s=0.01)
    stream.text()
    (request,) = engine.requests
    assert (request.min_accuracy, request.priority) == (0.55, None)
    assert 50_000 < request.slo_ms <= 100_000
    given = {"max_tokens": 1, **QUICK}
    stream.client.async_stream_infer("count", [prompt_of(b"a")], priority=7, timeout=10**8, parameters=given)
    stream.text()
    assert engine.requests[-1].priority == 7
    assert 0 < engine.requests[-1].timeout_ms <= 100_000


def test_texts_and_other_requests_share_a_stream(stream: Stream, writer: ServedModel) -> None:
    """The tokens of two texts come as they are made, and no answer waits for the end of a text."""
    engine: Any = writer.engine
    engine.held = True
    stream.ask(b"a", "one", max_tokens=2, level=0)
    stream.ask(b"k", "two", max_tokens=2, level=0)
    stream.client.async_stream_infer("net", [tensor()], request_id="plain")
    assert stream.next().get_response().id == "plain"
    assert wait_for(lambda: len(engine.pending) == 2)
    engine.held = False
    for request, future in engine.pending:
        future.set_result(engine.run_or_queue(request).result())
    got: dict[str, bytes] = {"one": b"", "two": b""}
    for _ in range(4):
        result = stream.next()
        got[result.get_response().id] += result.as_numpy("text_output")[0]
    assert got == {"one": b"bc", "two": b"lm"}


def test_a_token_that_is_refused_comes_late(stream: Stream, writer: ServedModel) -> None:
    """It is asked for again at the sparsest level, with all the time that the server grants."""
    engine: Any = writer.engine
    stream.ask(b"a", max_tokens=1, tokens_per_s=0.01)
    (first,) = stream.text()
    assert first.get_response().parameters["level"].int64_param == 3
    engine.requests.clear()
    engine.refuses = 1
    stream.ask(b"a", max_tokens=1, tokens_per_s=0.01)
    (late,) = stream.text()
    assert late.get_response().parameters["level"].int64_param == 0
    assert [(each.level, each.slo_ms is None) for each in engine.requests] == [(None, False), (0, True)]


def test_a_text_that_fails_ends_with_a_message(stream: Stream, server: Any, writer: ServedModel) -> None:
    """With its id, behind the tokens before; the stream goes on, and the state is freed."""
    engine: Any = writer.engine
    engine.held = True
    stream.ask(b"a", "broken", max_tokens=9, level=0)
    assert wait_for(lambda: len(engine.pending) == 1)
    request, future = engine.pending.pop()
    engine.held = False
    engine.refuses = 1  # its time is up, so it is asked for once, as a late one
    future.set_result(Response(counted(request.inputs), LEVELS[0], 1, 1, "fake", 10.0))
    assert stream.next().as_numpy("text_output")[0] == b"b"
    with pytest.raises(InferenceServerException, match="no level is quick enough"):
        stream.next()
    assert wait_for(lambda: kept(server) == 0)
    stream.ask(b"a", max_tokens=1, level=0)
    assert text_of(stream.text()) == b"b"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"top_k": 3}, "unknown parameters"),
    ({"slo_ms": 3.0}, "unknown parameters"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 2.5}, "max_tokens"),
    ({"temperature": "hot"}, "temperature"),
    ({"stop": 5}, "stop"),
    ({"seed": -1}, "seed"),
    ({"tokens_per_s": -5}, "tokens_per_s"),
    ({"level": 17}, "17"),
    ({"min_accuracy": 0.99}, "min_accuracy"),
    ({"timeout": -1}, "timeout: expected a number of at least 0"),
    ({"sequence_id": 4}, "sequence_id"),
]


def test_a_parameter_is_obeyed_or_refused(stream: Stream, server: Any) -> None:
    """By a message that names it."""
    for parameters, said in WRONG:
        given = {**QUICK, **parameters}
        own = {name: given.pop(name) for name in ("sequence_id", "timeout") if name in given}  # tritonclient's own
        stream.client.async_stream_infer("count", [prompt_of(b"a")], parameters=given, **own)
        with pytest.raises(InferenceServerException, match=said):
            stream.next()
    assert kept(server) == 0


def text_message(**fields: Any) -> messages.ModelInferRequest:
    """A request for a text, by plain protobuf."""
    message = messages.ModelInferRequest(model_name=fields.pop("model_name", "count"))
    named = {"name": fields.pop("name", "text_input"), "shape": fields.pop("shape", [1])}
    given = message.inputs.add(datatype="BYTES", **named)
    given.contents.bytes_contents.extend(fields.pop("texts", [b"a"]))
    message.parameters["max_tokens"].int64_param = fields.pop("max_tokens", 1)
    message.parameters["tokens_per_s"].double_param = 1e6
    message.raw_input_contents.extend(fields.pop("raw", []))
    for name in fields.pop("outputs", []):
        message.outputs.add(name=name)
    return message


WRONG_MESSAGES: list[tuple[dict[str, Any], str]] = [
    ({"texts": []}, "expected one text"),
    ({"texts": [b"a", b"b"]}, "expected one text"),
    ({"texts": [b""]}, "at least one byte"),
    ({"texts": [b"123456789"]}, "at most 8 bytes"),
    ({"shape": [2]}, "expected one text"),
    ({"shape": [-1]}, "expected one text"),
    ({"raw": [b"\x01\x00\x00\x00a"]}, "both contents and raw"),
    ({"outputs": ["logits"]}, "expected text_output"),
    ({"name": "prompt"}, "has the input 'prompt'; expected 'text_input'"),
    ({"model_name": "net"}, "'net' continues no texts, and the request has an input of BYTES"),
    ({"model_name": "other"}, "no model 'other'"),
]
WRONG_TEXTS = (b"", b"\x05\0\0\0a", b"\xff\xff\xff\xffa", b"\0\0\0\0", b"\x01\0\0\0ab")
"""Raw ones, whose stated length is not that of the text, or 0."""


def test_wrong_messages_are_refused(server: Any) -> None:
    """In the stream, each by its own error; a right one behind them is answered."""
    requests = [text_message(**fields) for fields, _ in WRONG_MESSAGES]
    for raw in WRONG_TEXTS:
        requests.append(text_message(texts=[], raw=[raw]))
        requests[-1].inputs[0].ClearField("contents")
    with grpc.insecure_channel(server.address) as channel:
        for index, request in enumerate(requests):
            (answer,) = streamed(channel, [request])
            said = WRONG_MESSAGES[index][1] if index < len(WRONG_MESSAGES) else "text_input|at least one byte"
            assert re.search(said, answer.error_message), (index, answer.error_message)
        (answer,) = streamed(channel, [text_message()])
    assert not answer.error_message


def test_a_prompt_that_is_as_large_as_tensors_is_read(server: Any) -> None:
    """Raw values of a large message are taken out of it; the error tells the size of the text all the same."""
    size = 1 << 17
    request = text_message(texts=[], raw=[size.to_bytes(4, "little") + b"a" * size])
    request.inputs[0].ClearField("contents")
    with grpc.insecure_channel(server.address) as channel:
        (answer,) = streamed(channel, [request])
    assert re.search(f"at most 8 bytes.*got {size}", answer.error_message), answer.error_message


def test_a_slow_text_ends_with_its_timeout_or_its_model(stream: Stream, server: Any) -> None:
    """It does not wait for the time of its next token, which is 1000 s away."""
    given = {"tokens_per_s": 0.001, "max_tokens": 3}
    stream.client.async_stream_infer("count", [prompt_of(b"a")], parameters=given, timeout=2_000_000)
    stream.next()
    with pytest.raises(InferenceServerException, match="passed after 1 of 3 tokens"):
        stream.next()
    for reason, said in ((UNLOADED, "the text's model was unloaded"), (EVICTED, "made way for a client"), ("", "ends")):
        stream.ask(b"a", **given)
        stream.next()
        sequences = server._dataplane.sequences
        (held,) = list(sequences._all.values())
        sequences._lose(held, reason) if reason else sequences.remove(held)
        with pytest.raises(InferenceServerException, match=said):
            stream.next()


def streamed(channel: grpc.Channel, requests: list[messages.ModelInferRequest]) -> Any:
    return channel.stream_stream(
        f"/{messages.SERVICE_NAME}/ModelStreamInfer",
        request_serializer=lambda each: each.SerializeToString(),
        response_deserializer=messages.ModelStreamInferResponse.FromString,
    )(iter(requests), timeout=PATIENCE_S)


def test_half_close_waits_for_texts(server: Any) -> None:
    """A client that has ended its side gets every token, then OK."""
    with grpc.insecure_channel(server.address) as channel:
        call = streamed(channel, [text_message(max_tokens=40)])
        assert len(list(call)) == 40
        assert call.code() == grpc.StatusCode.OK


def test_cancel_frees_everything(server: Any, writer: ServedModel) -> None:
    """The token under way, the state, and the texts that wait for the time of their next token."""
    engine: Any = writer.engine
    engine.held = True
    with Stream(server) as stream:
        stream.ask(b"a", max_tokens=9)
        assert wait_for(lambda: len(engine.pending) == 1)
        engine.held = False
        stream.ask(b"b", "slow", max_tokens=9, tokens_per_s=0.01)
        assert stream.next().get_response().id == "slow"
        assert kept(server) == 2
        stream.client.stop_stream(cancel_requests=True)
        assert wait_for(lambda: engine.pending[0][1].cancelled())
        assert wait_for(lambda: kept(server) == 0)
    assert server._dataplane.sequences.counts["count"] == [0, 0]


def test_a_unary_request_for_a_text_is_refused(server: Any) -> None:
    """With the advice to send it in a stream."""
    with (
        triton.InferenceServerClient(server.address) as client,
        pytest.raises(InferenceServerException, match="in a stream"),
    ):
        client.infer("count", [prompt_of(b"a")])
    with (
        triton.InferenceServerClient(server.address) as client,
        pytest.raises(InferenceServerException, match="has datatype 'BYTES'; expected one of"),
    ):
        client.infer("net", [prompt_of(b"a")])


def test_texts_count_among_the_sequences(writer: ServedModel, serve: Callable[..., Any]) -> None:
    """One more than there is room for is refused; a plain sequence of the same model has its room, too."""
    engine: Any = writer.engine
    engine.held = True
    limits = SequenceLimits(most=2)
    with serve([writer], ServerConfig(port=0, grace_s=0.1, sequences=limits)) as server, Stream(server) as stream:
        for name in ("one", "two", "three"):
            stream.ask(b"a", name, max_tokens=2)
        with pytest.raises(InferenceServerException, match="at most 2 sequences"):
            stream.next()


def test_a_drain_ends_texts(writer: ServedModel, serve: Callable[..., Any]) -> None:
    """The client is told why, and the server does not wait for the end of a long text."""
    with serve([writer]) as server:
        channel = grpc.insecure_channel(server.address)
        message = text_message(max_tokens=1000)
        message.parameters["tokens_per_s"].double_param = 20.0
        call = streamed(channel, [message])
        assert not next(call).error_message
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    channel.close()


def test_each_token_is_a_request_of_the_metrics(stream: Stream, server: Any) -> None:
    """So are refusals."""
    stream.ask(b"a", max_tokens=5, level=0)
    stream.text()
    stream.ask(b"a", max_tokens=0)
    with pytest.raises(InferenceServerException, match="max_tokens"):
        stream.next()
    (stats,) = stream.client.get_inference_statistics("count").model_stats
    assert (stats.inference_stats.success.count, stats.inference_stats.fail.count) == (5, 1)


def test_the_configuration_calls_it_decoupled(server: Any) -> None:
    """As Triton's clients expect it; the plain model is not."""
    with triton.InferenceServerClient(server.address) as client:
        assert client.get_model_config("count").config.model_transaction_policy.decoupled
        assert not client.get_model_config("net").config.model_transaction_policy.decoupled


def test_plain_requests_to_a_text_model_go_on(server: Any) -> None:
    """Its tensors, without a text."""
    with triton.InferenceServerClient(server.address) as client:
        assert client.infer("net", [tensor(X)]).as_numpy("double") is not None
        given = []
        for name, array in {
            "words": np.array([[5, 6]]),
            "begin": np.zeros(1, np.int64),
            "sum": np.zeros((1, 1), np.float32),
        }.items():
            given.append(triton.InferInput(name, list(array.shape), "FP32" if name == "sum" else "INT64"))
            given[-1].set_data_from_numpy(array)
        answer = client.infer("count", given, parameters={"level": 0})
        assert answer.as_numpy("logits")[0, -1].argmax() == 7
