"""Ingress: an unmodified client before replicas that answer, die, fail, and are not there."""

from __future__ import annotations

import asyncio
import threading

import grpc
import pytest
from clients import infer_stub, tensor, triton, typed_request
from cluster_ingress import AbsentError, FullError, LostError, answered
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nested_sparse.errors import OverloadedError, UnauthenticatedError
from nested_sparse.proto import messages
from nested_sparse.serving.cluster.forwarded import Answer
from nested_sparse.serving.cluster.ingress import FORWARDED, MOST_MISSED, MOST_TRIES, handler
from nested_sparse.serving.fault import Ending

SHED = Ending.of(OverloadedError("shed: no level can answer in time", 7.0))


def refused(address, **arguments):
    """The error of an inference by plain gRPC."""
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        infer_stub(channel)(typed_request(), timeout=10, **arguments)
    return caught.value


def test_a_call_arrives_whole_and_its_answer_returns(ingress, replicas) -> None:
    replicas.reply = lambda call: Answer(answered(call), (("nested-sparse-replica", "a"),))
    with grpc.insecure_channel(ingress[0]) as channel:
        response, call = infer_stub(channel).with_call(typed_request(), timeout=10, metadata=(("key", "value"),))
    assert response.id == "seven"
    assert ("nested-sparse-replica", "a") in [tuple(each) for each in call.trailing_metadata()]
    (sent,) = replicas.calls
    assert messages.ModelInferRequest.FromString(sent.data) == typed_request()
    assert ("key", "value") in sent.metadata
    assert sent.peer.startswith("ipv4:127.0.0.1:")
    assert 0 < sent.left_s <= 1.01 * 10  # a gRPC client rounds the time left up to three digits as it sends it


def test_without_a_deadline_none_is_sent_on(ingress, replicas) -> None:
    with triton.InferenceServerClient(ingress[0]) as client:
        assert client.infer("net", [tensor()], request_id="x").get_response().id == "x"
    assert replicas.calls[0].left_s is None


def test_a_status_of_a_replica_arrives_with_its_details(ingress, replicas) -> None:
    replicas.reply = lambda call: Answer(ending=SHED)
    error = refused(ingress[0])
    trailers = dict(error.trailing_metadata())
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == "shed: no level can answer in time; retry after 7 ms"
    assert trailers["grpc-retry-pushback-ms"] == "7"
    assert status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details[0].type_url.endswith("RetryInfo")


@pytest.mark.parametrize("deaths", range(MOST_TRIES + 1))
def test_a_call_of_a_dead_replica_goes_to_another_one(ingress, replicas, deaths) -> None:
    def reply(call):
        if len(replicas.calls) <= deaths:
            raise LostError("died")
        return Answer(answered(call))

    replicas.reply = reply
    if deaths < MOST_TRIES:
        with triton.InferenceServerClient(ingress[0]) as client:
            assert client.infer("net", [tensor()], request_id="x").get_response().id == "x"
        assert {call.data for call in replicas.calls} == {replicas.calls[0].data}
        assert len({call.arrival for call in replicas.calls}) == 1  # the deadline stays where it was
    else:
        assert refused(ingress[0]).code() is grpc.StatusCode.UNAVAILABLE
    assert len(replicas.calls) == min(deaths + 1, MOST_TRIES)


@pytest.mark.parametrize(
    ("error", "status", "pushback"),
    [
        (FullError("1024 wait"), grpc.StatusCode.RESOURCE_EXHAUSTED, "100"),
        (AbsentError("no application"), grpc.StatusCode.UNAVAILABLE, None),
        (RuntimeError("a bug"), grpc.StatusCode.INTERNAL, None),
    ],
)
def test_errors_without_a_replica_have_their_statuses(ingress, replicas, error, status, pushback) -> None:
    def reply(call):
        raise error

    replicas.reply = reply
    refusal = refused(ingress[0])
    assert refusal.code() is status
    assert dict(refusal.trailing_metadata()).get("grpc-retry-pushback-ms") == pushback
    assert "a bug" not in refusal.details()  # it is in the log, under the incident that the client is told
    assert len(replicas.calls) == 1


def test_a_deadline_ends_the_wait_and_the_call_of_the_replica(ingress, replicas) -> None:
    async def never(call):
        await asyncio.sleep(3600)

    replicas.reply = never
    with grpc.insecure_channel(ingress[0]) as channel, pytest.raises(grpc.RpcError) as caught:
        infer_stub(channel)(typed_request(), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert replicas.cancelled.wait(30)


def test_a_client_that_leaves_cancels_the_call_of_the_replica(ingress, replicas) -> None:
    begun = threading.Event()

    async def never(call):
        begun.set()
        await asyncio.sleep(3600)

    replicas.reply = never
    with grpc.insecure_channel(ingress[0]) as channel:
        call = infer_stub(channel).future(typed_request(), timeout=60)
        assert begun.wait(30)
        call.cancel()
        assert replicas.cancelled.wait(30)


def test_every_method_is_sent_on_or_refused_with_the_reason(ingress, replicas) -> None:
    methods = messages.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    with grpc.insecure_channel(ingress[0]) as channel:
        for each in methods:
            if each.name == "ModelStreamInfer":
                continue
            call = channel.unary_unary(f"/{messages.SERVICE_NAME}/{each.name}")
            replicas.calls.clear()
            if each.name in FORWARDED:
                call(b"", timeout=10)
                assert [sent.method for sent in replicas.calls] == [each.name]
            else:
                with pytest.raises(grpc.RpcError) as caught:
                    call(b"", timeout=10)
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
                assert each.name in caught.value.details()
                assert replicas.calls == []
    assert set(FORWARDED) <= {each.name for each in methods}


def test_the_requests_of_a_stream_are_answered_in_their_order(ingress, replicas) -> None:
    """The first is slow, the second is shed, the third is unreadable: each has its answer, and the stream goes on."""

    async def reply(call):
        name = messages.ModelInferRequest.FromString(call.data).id
        await asyncio.sleep(0.05 if name == "a" else 0)
        return Answer(ending=SHED) if name == "b" else Answer(answered(call))

    replicas.reply = reply
    sent = [messages.ModelInferRequest(id=name).SerializeToString() for name in "ab"]
    sent += [b"\xff\xff", messages.ModelInferRequest(id="d").SerializeToString()]
    with grpc.insecure_channel(ingress[0]) as channel:
        stream = channel.stream_stream(
            f"/{messages.SERVICE_NAME}/ModelStreamInfer",
            response_deserializer=messages.ModelStreamInferResponse.FromString,
        )
        answers = list(stream(iter(sent), timeout=30, metadata=(("key", "value"),)))
    assert [(each.infer_response.id, bool(each.error_message)) for each in answers] == [
        ("a", False),
        ("b", True),
        ("", True),
        ("d", False),
    ]
    assert answers[1].error_message == SHED.message
    assert all(("key", "value") in call.metadata for call in replicas.calls)


def test_health_is_that_of_the_replicas(ingress, replicas) -> None:
    """Not serving before the first look, and while no replica answers; each model has its own state."""
    address, front, run = ingress
    index = messages.RepositoryIndexResponse()
    index.models.add(name="net", version="1", state="READY")
    index.models.add(name="other", version="1", state="UNAVAILABLE")

    def reply(call):
        if call.method == "RepositoryIndex":
            return Answer(index.SerializeToString())
        return Answer(messages.ServerReadyResponse(ready=True).SerializeToString())

    def lost(call):
        raise AbsentError("none")

    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def statuses():
            names = ("", messages.SERVICE_NAME, "net", "other")
            return [stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status for name in names]

        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 2
        replicas.reply = reply
        run(front.look())
        assert statuses() == [1, 1, 1, 2]
        replicas.reply = lost
        run(front.look())
        assert statuses() == [2, 2, 2, 2]


def test_health_follows_by_itself(ingress, replicas) -> None:
    address, front, run = ingress

    def reply(call):
        return Answer(messages.ServerReadyResponse(ready=True).SerializeToString() if "Ready" in call.method else b"")

    replicas.reply = reply

    async def watched():
        task = asyncio.ensure_future(front.watch_health(0.01))
        while len(replicas.calls) < 6:
            await asyncio.sleep(0.001)
        task.cancel()

    run(watched())
    with grpc.insecure_channel(address) as channel:
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1


def test_the_services_are_listed_with_their_messages(ingress) -> None:
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    with grpc.insecure_channel(ingress[0]) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {messages.SERVICE_NAME, "grpc.health.v1.Health"} <= set(database.get_services())
        file = database.FindFileContainingSymbol(messages.SERVICE_NAME)
    assert "ModelInferRequest" in {message.name for message in file.message_type}


def test_ray_can_read_the_names_of_the_handler() -> None:
    """Ray's server asks each handler for its methods in this way (ray/serve/_private/grpc_util.py)."""
    from nested_sparse.serving.cluster.ingress import Ingress

    names = handler(Ingress(lambda call: None))._method_handlers  # type: ignore[arg-type,return-value]
    assert {name.split("/")[1] for name in names} == {messages.SERVICE_NAME}


def test_health_stays_where_too_many_calls_wait(ingress, replicas) -> None:
    """Replicas are there. A balancer that took the cluster away would lose what its levels can still answer."""
    _, front, run = ingress
    index = messages.RepositoryIndexResponse()
    index.models.add(name="net", version="1", state="READY")
    told = {"RepositoryIndex": index, "ServerReady": messages.ServerReadyResponse(ready=True)}
    replicas.reply = lambda call: Answer(told[call.method].SerializeToString())
    run(front.look())

    def full(call):
        raise FullError("1024 wait")

    replicas.reply = full
    run(front.look())
    assert {name: front.health._statuses[name] for name in ("", "net")} == {"": 1, "net": 1}


def test_health_stays_where_an_answer_is_late(ingress, replicas, monkeypatch) -> None:
    """In overload one comes late now and then. Replicas that do not answer for long are not healthy."""
    _, front, run = ingress
    monkeypatch.setattr("nested_sparse.serving.cluster.ingress.HEALTH_PERIOD_S", 0.05)
    told = {
        "RepositoryIndex": messages.RepositoryIndexResponse(),
        "ServerReady": messages.ServerReadyResponse(ready=True),
    }

    def reply(call):
        return Answer(told[call.method].SerializeToString())

    async def hang(call):
        await asyncio.sleep(60)

    def status():
        return front.health._statuses[""]

    for _ in range(2):
        replicas.reply = reply
        run(front.look())
        while status() != 1:
            run(front.look())
        replicas.reply = hang
        for _ in range(MOST_MISSED - 1):
            run(front.look())
            assert status() == 1
    run(front.look())
    assert status() == 2


def test_only_the_ingress_asks_for_itself(ingress, replicas) -> None:
    """Such a call takes no token."""
    address, front, run = ingress
    run(front.look())
    assert {call.own for call in replicas.calls} == {True}
    replicas.calls.clear()
    with grpc.insecure_channel(address) as channel:
        channel.unary_unary(f"/{messages.SERVICE_NAME}/RepositoryIndex")(b"", timeout=10, metadata=(("own", "1"),))
    assert [call.own for call in replicas.calls] == [False]


def test_a_stream_without_a_token_ends_as_that_of_the_plain_server(ingress, replicas) -> None:
    replicas.reply = lambda call: Answer(ending=Ending.of(UnauthenticatedError("a token is needed")))
    sent = [messages.ModelInferRequest(id="a").SerializeToString()]
    with grpc.insecure_channel(ingress[0]) as channel:
        answers = channel.stream_stream(f"/{messages.SERVICE_NAME}/ModelStreamInfer")(iter(sent), timeout=30)
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert caught.value.details() == "a token is needed"


def test_a_call_may_take_as_long_as_its_own_deadline(ingress, replicas, monkeypatch) -> None:
    """The bound is for calls without a deadline."""
    monkeypatch.setattr("nested_sparse.serving.cluster.ingress.LONGEST_S", 0.05)

    async def late(call):
        await asyncio.sleep(0.2)
        return Answer(answered(call))

    replicas.reply = late
    with grpc.insecure_channel(ingress[0]) as channel:
        assert infer_stub(channel)(typed_request(), timeout=30).id == "seven"
        with pytest.raises(grpc.RpcError) as caught:
            infer_stub(channel)(typed_request())
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
