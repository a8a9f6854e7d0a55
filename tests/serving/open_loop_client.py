"""`python open_loop_client.py ADDRESS RATE SECONDS`: calls that leave on time whatever the server does; one JSON line.

A process of its own, so that it shares no interpreter with the server under test. Each call is [status, milliseconds
from when it left, whether it carried both hints].
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

import grpc
from grpc import aio

from nested_sparse.proto import messages


def request() -> bytes:
    """What the fake model takes."""
    infer = messages.ModelInferRequest(model_name="net", raw_input_contents=[bytes(16)])
    infer.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    data: bytes = infer.SerializeToString()
    return data


async def main(address: str, rate_per_s: float, seconds: float) -> None:
    """Prints what became of every call."""
    channel = aio.insecure_channel(address)
    infer = channel.unary_unary(f"/{messages.SERVICE_NAME}/ModelInfer")
    body, draw, calls = request(), random.Random(1), []
    await infer(body)

    async def call() -> tuple[str, float, bool]:
        begin_s = time.perf_counter()
        try:
            await infer(body, timeout=60.0)
        except aio.AioRpcError as error:
            hints = {key for key, _ in error.trailing_metadata() or ()}
            hinted = {"grpc-retry-pushback-ms", "grpc-status-details-bin"} <= hints
            return error.code().name, 1e3 * (time.perf_counter() - begin_s), hinted
        return grpc.StatusCode.OK.name, 1e3 * (time.perf_counter() - begin_s), False

    due_s = time.perf_counter()
    end_s = due_s + seconds
    while due_s < end_s:
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        calls.append(asyncio.create_task(call()))
        due_s += draw.expovariate(rate_per_s)
    print(json.dumps(await asyncio.gather(*calls)))
    await channel.close()


asyncio.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
