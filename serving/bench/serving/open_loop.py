"""Open-loop load: requests leave on schedule whatever the server does, and latency counts from the schedule.

A closed loop waits for a slow server and so hides the queue (coordinated omission); an open loop shows it. The client
is the unmodified tritonclient, so any server of the Open Inference Protocol can be the target.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from nested_sparse.errors import ServingError
from nested_sparse.excerpt import excerpt
from nested_sparse.runtime.session import Lowering

from .item import Item, by_name

SHED = ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
EXPIRED = "DEADLINE_EXCEEDED"
ANSWER_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of the schedule. at_s: from the start of the load; item: index of its inputs; phase: of the load."""

    at_s: float
    item: int
    phase: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """An action at a time of the schedule: a co-runner that starts or stops."""

    at_s: float
    action: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one arrival.

    latency_ms is from the scheduled time. Where no answer came output is None; what the answer did not say is None too:
    level (it ended at), accuracy (the file's, of that level), compute_ms.
    lowering: where the level fell during the inference; None where the answer does not say that it fell.
    """

    arrival: Arrival
    status: str  # ok, late, shed, expired, error
    latency_ms: float
    level: int | None = None
    output: NDArray[Any] | None = None
    detail: str = ""
    accuracy: float | None = None
    compute_ms: float | None = None
    lowering: Lowering | None = None


async def open_loop(
    address: str,
    model: str,
    arrivals: Sequence[Arrival],
    items: Sequence[Item],
    slo_ms: float,
    *,
    events: Sequence[Event] = (),
    connections: int = 1,
) -> list[Outcome]:
    """Send every arrival at its time, and return the outcomes in the same order when all have ended.

    A request that leaves late, because this process was not scheduled in time, asks the server for the rest of its SLO.
    events: actions at their time. connections: number of clients; the arrivals take turns on them, and each client
    sends one warm-up request first. Raises ServingError: the server does not describe the model.
    """
    async with AsyncExitStack() as clients:
        senders = [await _connect(clients, address, model, items, slo_ms) for _ in range(connections)]
        start_s = time.perf_counter() + 0.05
        happening = asyncio.create_task(_happen(events, start_s))
        tasks = []
        for arrival, sender in zip(arrivals, itertools.cycle(senders), strict=False):
            await _until(start_s + arrival.at_s)
            tasks.append(asyncio.create_task(sender.send(arrival, start_s + arrival.at_s)))
        outcomes = list(await asyncio.gather(*tasks))
        await happening
        return outcomes


async def unloaded_ms(address: str, model: str, item: Item, slo_ms: float, count: int = 20) -> list[float]:
    """Latencies of `count` requests, sent one after the other to an otherwise idle server."""
    async with AsyncExitStack() as clients:
        sender = await _connect(clients, address, model, [item], slo_ms)
        outcomes = [await sender.send(Arrival(0.0, 0), time.perf_counter()) for _ in range(count)]
    return [outcome.latency_ms for outcome in outcomes if outcome.output is not None]


async def _connect(clients: AsyncExitStack, address: str, model: str, items: Sequence[Item], slo_ms: float) -> _Sender:
    from tritonclient.grpc import aio as triton
    from tritonclient.utils import InferenceServerException

    client = triton.InferenceServerClient(address)
    clients.push_async_callback(client.close)
    try:
        metadata = await client.get_model_metadata(model, client_timeout=ANSWER_LIMIT_S)
    except InferenceServerException as error:
        raise ServingError(f"{address}: does not say what model {model!r} takes: {excerpt(error)}") from None
    if len(metadata.inputs) != 1 and not isinstance(items[0], Mapping):
        raise ServingError(f"{address}: model {model!r} takes {len(metadata.inputs)} inputs; this load test sends one")
    sender = _Sender(client, model, metadata, items, slo_ms)
    await sender.send(Arrival(0.0, 0, "warm-up"), time.perf_counter())
    return sender


async def _until(moment_s: float) -> None:
    await asyncio.sleep(max(0.0, moment_s - time.perf_counter()))


async def _happen(events: Sequence[Event], start_s: float) -> None:
    for event in events:
        await _until(start_s + event.at_s)
        event.action()


class _Sender:
    """A client that sends items and classifies the answers, of which it keeps the first output."""

    def __init__(self, client: Any, model: str, metadata: Any, items: Sequence[Item], slo_ms: float) -> None:
        from tritonclient import grpc as triton
        from tritonclient.utils import InferenceServerException

        self._client, self._model, self._slo_ms = client, model, slo_ms
        taken = {each.name: each.datatype for each in metadata.inputs}
        self._output_name = metadata.outputs[0].name
        self._failure = InferenceServerException
        self._inputs = []
        for item in items:
            named = by_name(item, list(taken))
            tensors = [triton.InferInput(name, list(each.shape), taken[name]) for name, each in named.items()]
            for tensor, each in zip(tensors, named.values(), strict=True):
                tensor.set_data_from_numpy(each)
            self._inputs.append(tensors)

    async def send(self, arrival: Arrival, scheduled_s: float) -> Outcome:
        left_ms = self._slo_ms - _since_ms(scheduled_s)
        if left_ms <= 0.1:
            return Outcome(arrival, "late", self._slo_ms, detail="left this process after its deadline")
        try:
            result = await self._client.infer(
                self._model, self._inputs[arrival.item], parameters={"slo_ms": left_ms}, client_timeout=ANSWER_LIMIT_S
            )
        except self._failure as error:
            return Outcome(arrival, _status(str(error.status())), _since_ms(scheduled_s), detail=excerpt(error))
        latency_ms = _since_ms(scheduled_s)
        said = _said(result.get_response().parameters)
        status = "ok" if latency_ms <= self._slo_ms else "late"
        return Outcome(
            arrival,
            status,
            latency_ms,
            said.get("level"),
            result.as_numpy(self._output_name),
            accuracy=said.get("accuracy"),
            compute_ms=said["compute_us"] / 1e3 if "compute_us" in said else None,
            lowering=_lowering(said),
        )


def _said(parameters: Any) -> dict[str, Any]:
    """Response parameters as plain values."""
    return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in parameters.items()}


def _lowering(said: Mapping[str, Any]) -> Lowering | None:
    """Where the level fell, from the response's parameters; None where they do not say that it fell."""
    started_level, layer = said.get("started_level"), said.get("lowered_at")
    if started_level is None or layer is None:
        return None
    return Lowering(started_level, layer, said.get("lowered_from", started_level), said.get("accuracy"))


def _since_ms(moment_s: float) -> float:
    return 1000.0 * (time.perf_counter() - moment_s)


def _status(code: str) -> str:
    if code.endswith(SHED):
        return "shed"
    return "expired" if code.endswith(EXPIRED) else "error"
