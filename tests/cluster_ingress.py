"""Cluster ingress: one on a port of its own, before replicas that are functions of the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from grpc import aio

from nested_sparse.proto import messages
from nested_sparse.serving.cluster.forwarded import Answer, Forwarded
from nested_sparse.serving.cluster.ingress import Ingress, add_services


class LostError(Exception):
    """Stands for Ray's error of a replica that died."""


class FullError(Exception):
    """Stands for Ray's error of too many waiting calls."""


class AbsentError(Exception):
    """Stands for Ray's error of an application that is not there."""


class Replicas:
    """Replicas of a test: each call is kept in `calls`, and answered by `reply`, a function or coroutine function."""

    def __init__(self) -> None:
        self.calls: list[Forwarded] = []
        self.reply: Callable[[Forwarded], Any] = lambda call: Answer(answered(call))
        self.cancelled = threading.Event()

    async def ask(self, call: Forwarded) -> Answer:
        """As Ingress asks."""
        self.calls.append(call)
        try:
            answer = self.reply(call)
            found: Answer = await answer if asyncio.iscoroutine(answer) else answer
            return found
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def answered(call: Forwarded) -> bytes:
    """A response to an inference, with the request's id; of another method, an empty one."""
    if call.method != "ModelInfer":
        return b""
    request = messages.ModelInferRequest.FromString(call.data)
    return messages.ModelInferResponse(model_name=request.model_name, id=request.id).SerializeToString()


@contextmanager
def serving(replicas: Replicas) -> Iterator[tuple[str, Ingress, Callable[[Any], Any]]]:
    """The address of an ingress before `replicas`, the ingress, and a function that runs a coroutine in its loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    async def start() -> tuple[Any, Ingress, int]:
        server = aio.server()
        ingress = Ingress(replicas.ask, lost=(LostError,), full=(FullError,), absent=(AbsentError,))
        add_services(ingress, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, ingress, port

    try:
        server, ingress, port = run(start())
        try:
            yield f"127.0.0.1:{port}", ingress, run
        finally:
            run(server.stop(None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
