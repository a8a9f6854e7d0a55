"""Contenders: the servers that are compared, each a process that stays up for the whole experiment."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from nested_sparse.errors import BenchError, ServingError
from nested_sparse.excerpt import excerpt
from nested_sparse.runtime.policy import ELASTIC, SLACKFIT

from .capacity import THREADS
from .experiment import Contender
from .item import Item, shapes_of
from .open_loop import unloaded_ms
from .server_process import running_server

PATIENT_MS = 10_000.0


def own_servers(
    stack: ExitStack, checkpoint: Path, level_count: int, slo_ms: float, say: Callable[[str], None]
) -> tuple[list[Contender], dict[str, str]]:
    """Servers at each fixed level, with SlackFit and with elastic; and by name the reason why one did not start.

    The servers end with `stack`. They start one after the other, because each measures its levels first. Raises
    ServingError: a server other than SlackFit's does not start.
    """
    flags: Mapping[str, list[str]] = {
        **{f"level {level}": ["--level", str(level)] for level in range(level_count)},
        SLACKFIT: ["--policy", SLACKFIT],
        ELASTIC: [],
    }
    contenders, missing = [], {}
    for number, (name, extra) in enumerate(flags.items()):
        say(f"starting the server of {name}")
        arguments = ["--threads", str(THREADS), "--slo-ms", str(slo_ms), *extra]
        try:
            server = stack.enter_context(running_server(checkpoint, arguments))
        except ServingError as error:
            if name != SLACKFIT:
                raise
            missing[name] = str(error)
            continue
        level = number if number < level_count else None
        contenders.append(Contender(name, server.address, checkpoint.stem, level, server.pid))
    return contenders, missing


def target_server(address: str, model: str | None) -> Contender:
    """A server that already runs. model: None takes its first model; BenchError where the server lists none."""
    return Contender("target", address, model or asyncio.run(_first_model(address)))


def target_ms(target: Contender, item: Item) -> float:
    """Median latency, ms, of a request to the otherwise idle target. Raises ServingError, BenchError."""
    samples = asyncio.run(unloaded_ms(target.address, target.model, item, PATIENT_MS))
    if not samples:
        raise BenchError(
            f"{target.address}: model '{excerpt(target.model)}' answers no request of shape {shapes_of(item)}"
        )
    return statistics.median(samples)


async def _first_model(address: str) -> str:
    from tritonclient.grpc import aio as triton
    from tritonclient.utils import InferenceServerException

    client = triton.InferenceServerClient(address)
    try:
        index = await client.get_model_repository_index()
        names = [model.name for model in index.models]
    except InferenceServerException as error:
        raise BenchError(
            f"{address}: does not say which models it has ({excerpt(error)}); name one with --model"
        ) from None
    finally:
        await client.close()
    if not names:
        raise BenchError(f"{address}: serves no model")
    return str(names[0])
