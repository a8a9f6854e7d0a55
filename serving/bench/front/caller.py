"""Caller: calls two servers with ready bytes, one client in turns, or many connections at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from grpc import aio

from nested_sparse.errors import BenchError
from nested_sparse.excerpt import excerpt

OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # else channels to one address share a connection
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)
PATIENCE_S = 60.0
WARM_UP = 50


@dataclass(frozen=True, slots=True)
class Target:
    """A method of a server, and the bytes of the request."""

    address: str
    path: str
    data: bytes


@contextmanager
def calling(*targets: Target) -> Iterator[list[Callable[[], bytes]]]:
    """A call of each target, over a connection of its own. A call that fails raises BenchError."""

    def of(target: Target, channel: grpc.Channel) -> Callable[[], bytes]:
        method = channel.unary_unary(target.path)

        def call() -> bytes:
            try:
                answer: bytes = method(target.data, timeout=PATIENCE_S)
            except grpc.RpcError as error:
                raise _failed(target, error) from None
            return answer

        return call

    with ExitStack() as channels:
        yield [of(each, channels.enter_context(grpc.insecure_channel(each.address, OPTIONS))) for each in targets]


def in_turns(works: Sequence[Callable[[], Any]], rounds: int, warm_up: int = WARM_UP) -> list[list[tuple[float, Any]]]:
    """Milliseconds and result of each work in each round, one after the other.

    warm_up: number of rounds before, which do not count.
    """
    done: list[list[tuple[float, Any]]] = [[] for _ in works]
    for turn in range(warm_up + rounds):
        for work, found in zip(works, done, strict=True):
            begin_s = time.perf_counter()
            result = work()
            spent_ms = 1e3 * (time.perf_counter() - begin_s)
            if turn >= warm_up:
                found.append((spent_ms, result))
    return done


def at_once(target: Target, connections: int, seconds: float) -> tuple[float, list[bytes]]:
    """Answers per second of a closed loop on each of `connections`, and the answers; refused calls are none.

    Raises BenchError for a call that fails otherwise.
    """
    return asyncio.run(_at_once(target, connections, seconds))


async def _at_once(target: Target, connections: int, seconds: float) -> tuple[float, list[bytes]]:
    answers: list[bytes] = []
    channels = [aio.insecure_channel(target.address, options=OPTIONS) for _ in range(connections)]
    calls = [channel.unary_unary(target.path) for channel in channels]

    async def once(call: aio.UnaryUnaryMultiCallable) -> None:
        try:
            answers.append(await call(target.data, timeout=PATIENCE_S))
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise _failed(target, error) from None

    async def loop(call: aio.UnaryUnaryMultiCallable, end_s: float) -> None:
        while time.perf_counter() < end_s:
            await once(call)

    await asyncio.gather(*(once(call) for call in calls))
    answers.clear()
    begin_s = time.perf_counter()
    await asyncio.gather(*(loop(call, begin_s + seconds) for call in calls))
    spent_s = time.perf_counter() - begin_s
    for channel in channels:
        await channel.close()
    return len(answers) / spent_s, answers


def _failed(target: Target, error: Any) -> BenchError:
    return BenchError(f"{target.address}{target.path}: {error.code().name}: {excerpt(error.details())}")
