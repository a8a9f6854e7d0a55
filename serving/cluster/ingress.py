"""Ingress: the protocol's methods in front of many replicas. It reads no tensor: it passes bytes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from nested_sparse.errors import DeadlineError, OverloadedError, UnavailableError, UnsupportedError
from nested_sparse.proto import messages

from ..connections.calls import Calls
from ..fault import EndedError, Ending, ending_of
from ..health import NOT_SERVING, SERVING, HealthServicer
from ..health import SERVICE_NAME as HEALTH_SERVICE_NAME
from ..protocol.reflection import SERVICE_NAMES as REFLECTION_SERVICE_NAMES
from ..protocol.reflection import add_reflection
from ..protocol.wire import split_infer_request
from ..streaming import Streaming
from .forwarded import Answer, Arrival, Forwarded

FORWARDED = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelConfig",
    "ModelInfer",
    "RepositoryIndex",
)
"""Methods that any replica answers alike. All others are of one server: its counts, its files, its memory, its log."""
MOST_TRIES = 3
"""Replicas that a call is sent to, where one after the other dies with it."""
LONGEST_S = 60.0
"""Time that a call without a deadline of its own may take. A replica holds it to its SLO; this is for the time in
which there is no replica."""
HEALTH_PERIOD_S = 2.0
MOST_MISSED = 3
"""Looks in a row without an answer in time after which no replica counts as healthy. In overload an answer comes late
now and then; to say NOT_SERVING then would take all clients away, and bring them back two seconds later."""
STREAM_BYTES = 256 << 20
"""Most bytes of the unanswered requests of one stream."""
RETRY_MS = 100.0
SERVICE_NAMES = (messages.SERVICE_NAME, HEALTH_SERVICE_NAME, *REFLECTION_SERVICE_NAMES)
log = logging.getLogger(__name__)


class _Message:
    """As much of an inference request as a stream needs: its id."""

    __slots__ = ("id",)

    def __init__(self, id: str) -> None:
        self.id = id


class _Unread:
    """A request of a stream that is sent on as it came."""

    __slots__ = ("data", "message")

    def __init__(self, data: bytes) -> None:
        header, _ = split_infer_request(data)
        self.data = data
        self.message = _Message(messages.ModelInferRequest.FromString(header).id)


class Ingress:
    """Answers calls by asking replicas. Belongs to one event loop.

    ask: sends a call to a replica that it chooses, and returns the answer. lost: the errors by which `ask` says that
    the replica died or cannot be reached; the call is then sent to another one. An inference may have begun on the
    replica that died: to run it again changes nothing, for a replica keeps nothing of a request. full: the errors by
    which it says that too many calls wait for a replica. absent: those that say that there is no replica.
    """

    def __init__(
        self,
        ask: Callable[[Forwarded], Awaitable[Answer]],
        lost: tuple[type[BaseException], ...] = (),
        full: tuple[type[BaseException], ...] = (),
        absent: tuple[type[BaseException], ...] = (),
    ) -> None:
        self._ask, self._lost, self._full, self._absent = ask, lost, full, absent
        self.health = HealthServicer()
        self.health.set("", NOT_SERVING)
        self._models: dict[str, bool] = {}
        self._missed = 0

    async def call(self, method: str, data: bytes, context: Any) -> bytes:
        """The serialised response to a call of gRPC's; a status other than OK ends it."""
        try:
            answer = await self.answer(self._forwarded(method, data, context))
        except Exception as error:
            ending = ending_of(error, method)
        else:
            context.set_trailing_metadata(answer.trailers)
            return answer.data
        await ending.send(context)

    async def answer(self, forwarded: Forwarded) -> Answer:
        """The answer to a call. Raises EndedError, with the status that the replica gave.

        Raises OverloadedError, UnavailableError and DeadlineError where no replica answered.
        """
        limit_s = LONGEST_S if forwarded.left_s is None else forwarded.left_s
        try:
            answer = await asyncio.wait_for(self._answer(forwarded), max(limit_s - forwarded.arrival.waited_s(), 0.0))
        except asyncio.TimeoutError:
            raise DeadlineError("expired: no replica answered before the call's deadline") from None
        if answer.ending is not None:
            raise EndedError(answer.ending)
        return answer

    async def _answer(self, forwarded: Forwarded) -> Answer:
        for _ in range(MOST_TRIES):
            try:
                return await self._ask(forwarded)
            except self._lost as error:
                log.warning("a replica was lost with a %s; another one gets it: %.200s", forwarded.method, error)
            except self._full as error:
                raise OverloadedError(f"shed: too many calls wait for a replica ({error!s:.200})", RETRY_MS) from None
            except self._absent as error:
                raise UnavailableError(f"no replica can take the call now ({error!s:.200})") from None
        raise UnavailableError(
            f"{MOST_TRIES} replicas died with this call, which may be the cause; look at their logs, or send it again"
        )

    def _forwarded(self, method: str, data: bytes, context: Any) -> Forwarded:
        metadata = tuple((key, value) for key, value in context.invocation_metadata() or ())
        return Forwarded(method, data, Arrival.now(), context.peer(), metadata, context.time_remaining())

    async def stream(self, _: Any, context: Any) -> None:
        """ModelStreamInfer: each request of a stream goes to a replica of its own, all with the stream's metadata."""
        first = self._forwarded("ModelInfer", b"", context)

        async def read(data: bytes) -> _Unread:
            return _Unread(data)

        async def infer(request: Any, received_s: float, left_s: float | None) -> bytes:
            call = Forwarded("ModelInfer", request.data, Arrival.now(), first.peer, first.metadata, left_s)
            return (await self.answer(call)).data

        streaming = Streaming(read, infer, Calls(), STREAM_BYTES, lambda: Arrival.now().monotonic_s, lambda _: None)  # type: ignore[arg-type]
        await streaming.model_stream_infer(_, context)

    async def watch_health(self, period_s: float = HEALTH_PERIOD_S) -> None:
        """Ask a replica every `period_s` until cancelled, and tell gRPC's health service."""
        while True:
            await self.look()
            await asyncio.sleep(period_s)

    async def look(self) -> None:
        """Ask a replica once: SERVING where it takes calls, with each of its models.

        Where too many calls wait, the statuses stay: replicas are there, and their levels fall until they keep up. So
        they do where an answer comes late, but for MOST_MISSED looks in a row: a replica may hang.
        """
        try:
            index = messages.RepositoryIndexResponse.FromString(await self._own("RepositoryIndex", b""))
            ready = messages.ServerReadyResponse.FromString(await self._own("ServerReady", b"")).ready
            self._models = dict.fromkeys(self._models, False)
            self._models |= {model.name: model.state == "READY" for model in index.models}
            self._missed = 0
        except OverloadedError:
            return
        except Exception as error:
            self._missed += 1
            if isinstance(error, DeadlineError) and self._missed < MOST_MISSED:
                return
            log.debug("no replica is healthy: %s", error)
            ready, self._models = False, dict.fromkeys(self._models, False)
        for name, serving in {"": ready, messages.SERVICE_NAME: ready, **self._models}.items():
            self.health.set(name, SERVING if serving else NOT_SERVING)

    async def _own(self, method: str, data: bytes) -> bytes:
        return (await self.answer(Forwarded(method, data, Arrival.now(), left_s=HEALTH_PERIOD_S, own=True))).data


def handler(ingress: Ingress) -> Any:
    """gRPC's handler for all methods of the protocol."""

    def forwarded(method: str) -> Any:
        async def call(data: bytes, context: Any) -> bytes:
            return await ingress.call(method, data, context)

        return grpc.unary_unary_rpc_method_handler(call)

    handlers = {method: forwarded(method) for method in FORWARDED}
    service = messages.DESCRIPTOR.services_by_name[messages.SERVICE_NAME.rpartition(".")[2]]
    for each in service.methods:
        handlers.setdefault(each.name, grpc.unary_unary_rpc_method_handler(_refusal(each.name)))
    handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(ingress.stream)
    return grpc.method_handlers_generic_handler(messages.SERVICE_NAME, handlers)


def _refusal(method: str) -> Callable[[bytes, Any], Awaitable[None]]:
    async def refuse(_: bytes, context: Any) -> None:
        await Ending.of(
            UnsupportedError(f"{method} is about one server, and a cluster has many; see docs/deploy.md")
        ).send(context)

    return refuse


def add_services(ingress: Ingress, server: Any) -> None:
    """Add the protocol, its health and its reflection to a server of grpc.aio."""
    server.add_generic_rpc_handlers((handler(ingress),))
    health_pb2_grpc.add_HealthServicer_to_server(ingress.health, server)
    add_reflection(server, (messages.SERVICE_NAME, HEALTH_SERVICE_NAME))
