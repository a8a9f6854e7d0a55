"""RawClient: a process that calls a server with the same bytes again and again, as cheaply as gRPC allows.

`python -m nested_sparse.serving.bench.serving.raw_client ADDRESS MODEL SECONDS (--rate PER_S | --callers N)` connects,
prints a line, waits for one on stdin, and ends with one JSON line: [status, milliseconds, hinted] of every call.

With a rate, the load is an open loop: calls leave on time whatever the server does. With callers, it is a closed loop:
each waits for its answer before it calls again. Milliseconds count from the start of the call. hinted: whether the
refusal carried both hints when to try again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from grpc import aio

from nested_sparse.errors import BenchError
from nested_sparse.proto import messages

from ...fault import DETAILS_KEY, PUSHBACK_KEY
from ...protocol.datatype import datatype_named

PATIENCE_S = 60.0
OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
Call = Callable[[], Coroutine[Any, Any, None]]
MODULE = "nested_sparse.serving.bench.serving.raw_client"


@dataclass(frozen=True, slots=True)
class RawCall:
    """The result of one call; the fields as the module's docstring has them."""

    status: str
    latency_ms: float
    hinted: bool


def call_together(
    address: str, model: str, seconds: float, *, rate_per_s: float = 0.0, callers: int = 0, processes: int = 1
) -> list[RawCall]:
    """The calls of `processes` clients that begin together; the rate, or the callers, are divided among them.

    Raises BenchError: a client cannot begin.
    """
    load = ["--callers", str(max(1, callers // processes))] if callers else ["--rate", str(rate_per_s / processes)]
    command = [sys.executable, "-m", MODULE, address, model, str(seconds), *load]
    clients = [
        subprocess.Popen([*command, "--seed", str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for seed in range(processes)
    ]
    try:
        for client in clients:
            assert client.stdout is not None
            if not client.stdout.readline():
                raise BenchError(f"{address}: a client could not begin to call {model!r}; its error is above")
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("\n")
            client.stdin.flush()
        outputs = [client.communicate(timeout=seconds + 2 * PATIENCE_S)[0] for client in clients]
    finally:
        for client in clients:
            client.kill()
            client.wait()
    return [RawCall(*call) for output in outputs for call in json.loads(output)]


async def _request(channel: aio.Channel, model: str) -> bytes:
    metadata = messages.ModelMetadataRequest(name=model).SerializeToString()
    told = await channel.unary_unary(f"/{messages.SERVICE_NAME}/ModelMetadata")(metadata)
    return random_request(messages.ModelMetadataResponse.FromString(told), 0)


def random_request(metadata: messages.ModelMetadataResponse, seed: int) -> bytes:
    """A request with one sample for each input of the model: random numbers between 0 and 1."""
    request = messages.ModelInferRequest(model_name=metadata.name)
    generator = np.random.default_rng(seed)
    for each in metadata.inputs:
        shape = [max(1, size) for size in each.shape]
        request.inputs.add(name=each.name, datatype=each.datatype, shape=shape)
        values = generator.random(shape).astype(datatype_named(each.datatype, each.name).dtype)
        request.raw_input_contents.append(values.tobytes())
    data: bytes = request.SerializeToString()
    return data


async def _main(options: argparse.Namespace) -> list[RawCall]:
    async with aio.insecure_channel(options.address, options=OPTIONS) as channel:
        infer = channel.unary_unary(f"/{messages.SERVICE_NAME}/ModelInfer")
        data = await _request(channel, options.model)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        calls: list[RawCall] = []

        async def call() -> None:
            begin_s = time.perf_counter()
            status, hinted = grpc.StatusCode.OK, False
            try:
                await infer(data, timeout=PATIENCE_S)
            except aio.AioRpcError as error:
                status = error.code()
                hinted = {PUSHBACK_KEY, DETAILS_KEY} <= {key for key, _ in error.trailing_metadata() or ()}
            calls.append(RawCall(status.name, 1e3 * (time.perf_counter() - begin_s), hinted))

        end_s = time.perf_counter() + options.seconds
        if options.callers:
            await asyncio.gather(*(_closed(call, end_s) for _ in range(options.callers)))
        else:
            await _open(call, end_s, options.rate, random.Random(options.seed))
    return calls


async def _closed(call: Call, end_s: float) -> None:
    while time.perf_counter() < end_s:
        await call()


async def _open(call: Call, end_s: float, rate_per_s: float, draw: random.Random) -> None:
    under_way = []
    due_s = time.perf_counter()
    while due_s < end_s:
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        under_way.append(asyncio.create_task(call()))
        due_s += draw.expovariate(rate_per_s)
    await asyncio.gather(*under_way)


def main(arguments: Sequence[str]) -> None:
    """Run as a process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("model")
    parser.add_argument("seconds", type=float)
    load = parser.add_mutually_exclusive_group(required=True)
    load.add_argument("--rate", type=float, default=0.0)
    load.add_argument("--callers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    calls = asyncio.run(_main(parser.parse_args(arguments)))
    print(json.dumps([(call.status, round(call.latency_ms, 3), call.hinted) for call in calls]))


if __name__ == "__main__":
    main(sys.argv[1:])
