"""Front: stands before the inference method, and tells how long a request has waited in front of it."""

from __future__ import annotations

import asyncio
import functools
import secrets
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import grpc
from grpc import aio

from nested_sparse.errors import OverloadedError
from nested_sparse.proto import messages
from nested_sparse.runtime.resources import QuotaReading
from nested_sparse.runtime.scheduling import RecentCounts

from ..fault import Ending
from ..rights.caller import caller
from .call_task import call_task
from .front_delay import FrontDelay
from .stops import Stops

INFER = f"/{messages.SERVICE_NAME}/ModelInfer"
MODEST_SHARE = 0.5
"""Of an equal share of all calls: a client that makes fewer is not refused here."""
ACTIVE_S = 1.0
"""Time after the last request for which the delay of the event loop is still watched."""
PROBE_LIMIT_S = 2.0
"""Time after which a probe that has not arrived counts as lost."""
OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
"""A probe goes to this very process, never to a proxy of the environment."""

waited_s: ContextVar[float] = ContextVar("waited_s", default=0.0)
"""In a call of the inference method: the time that its request waited before the method began."""
arrived_s: ContextVar[float | None] = ContextVar("arrived_s", default=None)
"""In such a call: the time of its arrival, by the servicer's clock."""
LOAD_FORMAT = "endpoint-load-metrics-format"
"""Metadata by which a client asks for the server's load beside the answer."""
load_form: ContextVar[str | None] = ContextVar("load_form", default=None)
"""In such a call: the form of the load report that its client asks for; None: it does not ask."""


class Front(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Stands before a generic handler. For ModelInfer it sets `waited_s`, or refuses the call before its body is read.

    slo_ms: the shortest that a model promises. on_refused: called for each refusal, for the metrics. A refusal reads no
    body, parses nothing and raises nothing: it costs about a fifth of an answer. quota: reads the CPU quota, whose
    stops are not taken for overload.

    A client that its token tells apart, and that makes far fewer calls than others, is not refused: the others are.

    Probes go through the server's own port, to a method with a secret name, and only while there is load.
    Where the port cannot be reached, the wait is not known, and no call is refused here.
    """

    def __init__(
        self,
        handler: Any,
        slo_ms: float,
        on_refused: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        quota: Callable[[], QuotaReading | None] = lambda: None,
    ) -> None:
        self.delay = FrontDelay(slo_ms)
        self._stops = Stops(quota)
        self._recent = RecentCounts(self.delay.average_s)
        self._handler = handler
        self._on_refused = on_refused
        self._clock = clock
        self._refusal = grpc.stream_stream_rpc_method_handler(self._refuse)
        self.probe_path = f"/nested_sparse.front/{secrets.token_hex(16)}"
        self._probe_method = grpc.unary_unary_rpc_method_handler(self._probe_arrived)
        self._address = ""
        self._channel: aio.Channel | None = None
        self._probe: Any = None
        self._tick: asyncio.TimerHandle | None = None
        self._tick_due_s = self._delay_due_s = 0.0
        self._called_s = 0.0

    def service(self, details: Any) -> Any:
        """The handler of a call; gRPC asks once per call, before the body is read."""
        method = details.method
        if method == self.probe_path:
            return self._probe_method
        if method != INFER or not self._address:
            return self._handler.service(details)
        now_s = self._called_s = self._clock()
        self._note_stop(now_s)
        client = caller.get()
        entry = self.delay.enter(now_s, client is not None and self._is_modest(client.name, now_s))
        if self._tick is None:
            self._delay_due_s = now_s + self.delay.period_s
            self._plan_tick(now_s)
        self._probe_if_due(now_s)
        if entry.refused:
            return self._refusal
        waited_s.set(entry.wait_s)
        for key, value in details.invocation_metadata or ():
            if key == LOAD_FORMAT:
                load_form.set(value)
        if (task := call_task()) is not None:
            task.hold()  # until the method begins
        return self._handler.service(details)

    def _is_modest(self, client: str, now_s: float) -> bool:
        """Note a call; returns whether its client makes far fewer than others of late."""
        return self._recent.add(client, 1, now_s) * self._recent.names < MODEST_SHARE * self._recent.total

    def wait_s(self) -> float:
        """The time that a request which is taken in now has waited."""
        return self.delay.wait_s(self._clock())

    def open(self, address: str) -> None:
        """Begin to measure waits, with probes to `address`, which takes calls without TLS. Called from its loop."""
        self._address = address

    async def close(self) -> None:
        """Send no more probes, and refuse no call any more. Called from the server's loop."""
        self._address = ""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def _refuse(self, _: Any, context: Any) -> None:
        now_s = self._clock()
        ending = refusal(max(1, round(self.delay.wait_s(now_s) * 1e3)), max(1, round(self.delay.queued_s(now_s) * 1e3)))
        context.set_code(ending.status)  # in place of an abort, which raises and costs as much again
        context.set_details(ending.message)
        context.set_trailing_metadata(ending.trailers)
        self._on_refused()

    async def _probe_arrived(self, _: bytes, context: Any) -> bytes:
        now_s = self._clock()
        self._note_stop(now_s)
        self.delay.probe_arrived(now_s)
        return b""

    def _probe_if_due(self, now_s: float) -> None:
        if not self.delay.probe_due(now_s):
            return
        if self._channel is None:
            self._channel = aio.insecure_channel(self._address, options=OPTIONS)
        if self._channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.READY:
            self.delay.forget()
            return
        self.delay.probe_sent(now_s)
        self._probe = self._channel.unary_unary(self.probe_path)(b"", timeout=PROBE_LIMIT_S)
        self._probe.add_done_callback(self._probe_done)

    def _probe_done(self, call: Any) -> None:
        if call is self._probe:
            self._probe = None
            self.delay.probe_ended()

    def _note_stop(self, now_s: float) -> None:
        """Note the time in which the quota stopped this process; the tick tells it, or what comes before that."""
        if self._tick is not None and (stopped_s := self._stops.stopped_s(self._tick_due_s, now_s)) > 0.0:
            self.delay.stood_still(now_s - stopped_s, now_s, stopped_s)

    def _plan_tick(self, now_s: float) -> None:
        self._tick_at(min(self._delay_due_s, now_s + self._stops.look_every_s))

    def _tick_at(self, due_s: float) -> None:
        self._tick_due_s = due_s
        loop = asyncio.get_running_loop()
        self._tick = loop.call_at(loop.time() + due_s - self._clock(), self._on_tick)

    def _on_tick(self) -> None:
        """Note how late the loop is; the next look is planned while requests come or wait."""
        now_s = self._clock()
        self._note_stop(now_s)
        if now_s >= self._delay_due_s:  # a quota's more frequent looks would find more of the time that others take
            self.delay.stood_still(self._delay_due_s, now_s)
            self._delay_due_s = now_s + self.delay.period_s
        self._probe_if_due(now_s)
        if now_s - self._called_s < ACTIVE_S or self.delay.waits:
            self._plan_tick(now_s)
        else:
            self._tick = None


@functools.lru_cache(maxsize=256)
def refusal(wait_ms: int, queued_ms: int) -> Ending:
    """The status of a refused call; made once for each wait. queued_ms: the wait less the stops of a CPU quota."""
    reason = f"shed: the server is overloaded; a new request waits {wait_ms} ms before it is read"
    if wait_ms > queued_ms:
        reason += f", {wait_ms - queued_ms} ms of them while the CPU quota stops this server"
    return Ending.of(OverloadedError(reason, float(queued_ms)))
