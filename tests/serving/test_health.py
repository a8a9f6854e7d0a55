"""Health watchers: each watcher of a server's health gets its own changes."""

from __future__ import annotations

import asyncio
import struct
from contextlib import ExitStack

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nested_sparse.serving.health import NOT_SERVING, SERVING, UNKNOWN, HealthServicer
from nested_sparse.serving.server import ServerConfig
from raw_http2 import DATA, END_STREAM, INITIAL_WINDOW, SETTINGS, RawPeer, frame, message


class Context:
    """A watcher's end: what it was sent; where it does `stall`, nothing is ever taken."""

    def __init__(self, stall: bool = False) -> None:
        self.sent: list[int] = []
        self.aborted: grpc.StatusCode | None = None
        self._stall = stall

    async def write(self, response: health_pb2.HealthCheckResponse) -> None:
        if self._stall:
            await asyncio.Event().wait()
        self.sent.append(response.status)

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.aborted = code


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def watch(servicer: HealthServicer, context: Context, service: str = "") -> asyncio.Task[None]:
    return asyncio.create_task(servicer.Watch(health_pb2.HealthCheckRequest(service=service), context))


def test_the_others_hear_it_when_one_has_left():
    async def play() -> None:
        servicer, first, second = HealthServicer(), Context(), Context()
        leaving, staying = watch(servicer, first), watch(servicer, second)
        await settled()
        leaving.cancel()
        await settled()
        servicer.set("", NOT_SERVING)
        await settled()
        assert first.sent == [SERVING]
        assert second.sent == [SERVING, NOT_SERVING]
        servicer.set("", SERVING)
        await settled()
        assert second.sent == [SERVING, NOT_SERVING, SERVING]
        staying.cancel()

    asyncio.run(play())


def test_a_watcher_that_does_not_read_stops_no_other():
    """It stops neither other watchers nor the end of the server."""

    async def play() -> None:
        servicer, stalled, reading, unknown = HealthServicer(), Context(stall=True), Context(), Context()
        tasks = [watch(servicer, stalled), watch(servicer, reading), watch(servicer, unknown, "no such")]
        await settled()
        servicer.end()
        await servicer.close(0.05)
        assert reading.aborted == unknown.aborted == grpc.StatusCode.UNAVAILABLE
        assert reading.sent == [SERVING, NOT_SERVING]
        assert unknown.sent == [UNKNOWN]
        servicer.set("", SERVING)
        await settled()
        assert reading.sent == [SERVING, NOT_SERVING]
        for task in tasks:
            task.cancel()

    asyncio.run(play())


def test_a_stalled_watcher_on_the_wire(model, serve):
    """A client with a window of no bytes: others are told of the end, and the server ends."""
    with ExitStack() as clients, serve([model], ServerConfig(port=0, grace_s=1)) as server:
        stalled = clients.enter_context(RawPeer(server.address))
        stalled.send(frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, 0)))
        headers = stalled.begin(1, **{":path": "/grpc.health.v1.Health/Watch"})
        stalled.send(headers + frame(DATA, END_STREAM, 1, message(b"")))
        channel = grpc.insecure_channel(server.address)
        updates = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(updates).status == SERVING
    assert next(updates).status == NOT_SERVING
    with pytest.raises(grpc.RpcError) as caught:
        next(updates)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    channel.close()
