"""Health is told to every watcher, whatever the others do."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import replace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nested_sparse.serving.health import HealthServicer

STATUS = health_pb2.HealthCheckResponse
PATIENCE_S = 60.0


class Watcher:
    """A client's side of a watch; reads only while `reads` is set."""

    def __init__(self, reads=True):
        self.told = []
        self.ended = None
        self.reads = asyncio.Event()
        if reads:
            self.reads.set()

    async def write(self, response):
        await self.reads.wait()
        self.told.append(response.status)

    async def abort(self, status, details, trailers):
        self.ended = status
        raise RuntimeError("as gRPC's does, it raises")


async def until(condition):
    """Let the others run until it holds."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")


@contextlib.asynccontextmanager
async def watching(servicer, *watchers, service="net"):
    tasks = [
        asyncio.create_task(servicer.Watch(health_pb2.HealthCheckRequest(service=service), each)) for each in watchers
    ]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_a_watcher_hears_each_status_once():
    async def run():
        servicer, watcher = HealthServicer(), Watcher()
        async with watching(servicer, watcher):
            await until(lambda: watcher.told == [STATUS.SERVICE_UNKNOWN])
            for status in (STATUS.SERVING, STATUS.SERVING, STATUS.NOT_SERVING):
                await servicer.set("net", status)
                await servicer.set("other", STATUS.SERVING)
                await until(lambda status=status: watcher.told[-1] == status)
        assert watcher.told == [STATUS.SERVICE_UNKNOWN, STATUS.SERVING, STATUS.NOT_SERVING]

    asyncio.run(run())


def test_one_that_takes_nothing_holds_up_nobody():
    """Neither who sets a status, nor the others, nor the end; it hears the last status when it reads again."""

    async def run():
        servicer, silent, other = HealthServicer(), Watcher(reads=False), Watcher()
        await servicer.set("net", STATUS.SERVING)
        async with watching(servicer, silent, other):
            await until(lambda: other.told == [STATUS.SERVING])
            await asyncio.wait_for(servicer.set("net", STATUS.NOT_SERVING), PATIENCE_S)
            await until(lambda: other.told[-1] == STATUS.NOT_SERVING)
            await asyncio.wait_for(servicer.set("net", STATUS.SERVING), PATIENCE_S)
            await asyncio.wait_for(servicer.enter_graceful_shutdown(), PATIENCE_S)
            await until(lambda: other.told[-1] == STATUS.NOT_SERVING)
            silent.reads.set()
            await until(lambda: silent.told == [STATUS.SERVING, STATUS.NOT_SERVING])

    asyncio.run(run())


def test_watches_end_behind_their_last_status():
    """Also of one that reads late."""

    async def run():
        servicer, late, other = HealthServicer(), Watcher(reads=False), Watcher()
        async with watching(servicer, late, other, service="") as tasks:
            await until(lambda: other.told == [STATUS.SERVING])
            await servicer.enter_graceful_shutdown()
            await servicer.end_watches()
            await until(tasks[1].done)
            late.reads.set()
            await until(tasks[0].done)
        assert late.told == other.told == [STATUS.SERVING, STATUS.NOT_SERVING]
        assert late.ended == other.ended == grpc.StatusCode.UNAVAILABLE

    asyncio.run(run())


def test_nothing_changes_after_the_shutdown():
    async def run():
        servicer = HealthServicer()
        await servicer.set("net", STATUS.SERVING)
        await servicer.enter_graceful_shutdown()
        await servicer.set("net", STATUS.SERVING)
        answers = [await servicer.Check(health_pb2.HealthCheckRequest(service=name), None) for name in ("", "net")]
        assert [each.status for each in answers] == [STATUS.NOT_SERVING] * 2

    asyncio.run(run())


@pytest.mark.parametrize("leaving", [0, 1])
def test_a_watcher_that_leaves_takes_no_news_from_the_others(model, serve, leaving):
    """Over real sockets: the model gets stuck after one of two has gone."""
    stuck = threading.Event()
    stats = model.engine.stats
    model.engine.stats = lambda: replace(stats(), stuck=int(stuck.is_set()))
    with serve([model]) as server, contextlib.ExitStack() as stack:
        channels = [stack.enter_context(grpc.insecure_channel(server.address)) for _ in range(2)]
        watches = [
            health_pb2_grpc.HealthStub(each).Watch(health_pb2.HealthCheckRequest(service="net"), timeout=PATIENCE_S)
            for each in channels
        ]
        assert [next(each).status for each in watches] == [STATUS.SERVING] * 2
        watches[leaving].cancel()
        with pytest.raises(grpc.RpcError):
            next(watches[leaving])
        # what the server does of a cancel is behind it when the same connection has had another answer
        health_pb2_grpc.HealthStub(channels[leaving]).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
        stuck.set()
        assert next(watches[1 - leaving]).status == STATUS.NOT_SERVING
