"""Open-loop load: requests leave on schedule whatever the server does, and latency counts from the schedule.

A closed loop waits for a slow server and so hides its queue (coordinated omission); an open loop does not. The client
is the unmodified tritonclient, so any server of the Open Inference Protocol can be the target.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHED = ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
EXPIRED = "DEADLINE_EXCEEDED"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of the schedule: when it leaves (seconds from the start), the batch it carries, its phase."""

    at_s: float
    item: int
    phase: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one arrival.

    latency_ms is from the scheduled time; level is None where no answer came, or none was named in it.
    """

    arrival: Arrival
    status: str  # ok, late, shed, expired, error
    latency_ms: float
    level: int | None
    output: NDArray[Any] | None
    detail: str = ""


def poisson_times(rate_per_s: float, duration_s: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Arrival times in [0, duration_s) of a Poisson process."""
    gaps = rng.exponential(1.0 / rate_per_s, int(rate_per_s * duration_s * 2 + 50))
    times = np.cumsum(gaps)
    return np.asarray(times[times < duration_s])


async def open_loop(
    address: str,
    model: str,
    arrivals: Sequence[Arrival],
    batches: Sequence[NDArray[np.float32]],
    slo_ms: float,
    on_phase: Callable[[str], None] = lambda phase: None,
) -> list[Outcome]:
    """Send every arrival at its time and return one outcome for each, in order.

    A request that leaves late, because this process was not scheduled in time, asks the server for what is left of its
    SLO. `on_phase` is called when a phase begins, by the schedule's own clock.
    """
    from tritonclient.grpc import aio as triton

    client = triton.InferenceServerClient(address)
    try:
        metadata = await client.get_model_metadata(model)
        sender = _Sender(client, model, metadata.inputs[0].name, metadata.outputs[0].name, batches, slo_ms)
        await sender.send(Arrival(0.0, 0, "warm-up"), time.perf_counter())
        start_s, phase = time.perf_counter() + 0.05, ""
        tasks = []
        for arrival in arrivals:
            if arrival.phase != phase:
                phase = arrival.phase
                on_phase(phase)
            await asyncio.sleep(max(0.0, start_s + arrival.at_s - time.perf_counter()))
            tasks.append(asyncio.create_task(sender.send(arrival, start_s + arrival.at_s)))
        return list(await asyncio.gather(*tasks))
    finally:
        await client.close()


class _Sender:
    """Sends one batch and classifies the answer."""

    def __init__(
        self,
        client: Any,
        model: str,
        input_name: str,
        output_name: str,
        batches: Sequence[NDArray[np.float32]],
        slo_ms: float,
    ) -> None:
        from tritonclient import grpc as triton
        from tritonclient.utils import InferenceServerException

        self._client, self._model, self._output_name, self._slo_ms = client, model, output_name, slo_ms
        self._failure = InferenceServerException
        self._inputs = []
        for batch in batches:
            tensor = triton.InferInput(input_name, list(batch.shape), "FP32")
            tensor.set_data_from_numpy(batch)
            self._inputs.append([tensor])

    async def send(self, arrival: Arrival, scheduled_s: float) -> Outcome:
        left_ms = self._slo_ms - _since_ms(scheduled_s)
        if left_ms <= 0.1:
            return Outcome(arrival, "late", self._slo_ms, None, None, "left this process after its deadline")
        try:
            result = await self._client.infer(
                self._model, self._inputs[arrival.item], parameters={"slo_ms": left_ms}, client_timeout=10.0
            )
        except self._failure as error:
            return Outcome(arrival, _status(str(error.status())), _since_ms(scheduled_s), None, None, str(error))
        latency_ms = _since_ms(scheduled_s)
        parameters = result.get_response().parameters
        level = int(parameters["level"].int64_param) if "level" in parameters else None
        status = "ok" if latency_ms <= self._slo_ms else "late"
        return Outcome(arrival, status, latency_ms, level, result.as_numpy(self._output_name))


def _since_ms(moment_s: float) -> float:
    return 1000.0 * (time.perf_counter() - moment_s)


def _status(code: str) -> str:
    if code.endswith(SHED):
        return "shed"
    return "expired" if code.endswith(EXPIRED) else "error"
