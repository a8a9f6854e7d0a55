"""`nested-sparse serve`: run the server until a signal stops it."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from nested_sparse.errors import InputError

from ..ending import SIGNALS, end_draining, ended_by_signals
from .output import print_json

if TYPE_CHECKING:
    from ..served_model import ServedModel
    from ..server import Server, ServerConfig

SWITCH_S = 0.0002
"""The longest time for which a thread keeps the interpreter while another one waits for it. With Python's default of
5 ms, a busy event loop delayed the end of every run by as much: runs of 0.1 ms looked fifty times slower than
profiled."""
POLICY_NAMES = "{policies}"
"""Stands in the help of --policy for the names, which are imported with the runtime."""
log = logging.getLogger(__name__)


class ServeCommand(TyperCommand):
    """`serve`, whose help names the policies. They are imported when the help is asked for, not with every verb."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """As any command's."""
        from nested_sparse.runtime.policy import DEFAULT_POLICY, POLICIES

        names = "; ".join(f"`{name}` ({kind.summary})" for name, kind in POLICIES.items())
        for option in self.params:
            if isinstance(option, TyperOption) and option.help is not None:
                option.help = option.help.replace(POLICY_NAMES, f"{names}; default: {DEFAULT_POLICY}")
        super().format_help(ctx, formatter)


def serve(
    files: Annotated[
        list[Path], typer.Argument(help="Checkpoints; each is served under its file's stem.", metavar="FILE")
    ],
    slo_ms: Annotated[
        float,
        typer.Option(
            help="Milliseconds a request may take when it brings no deadline; the most any may take.", min=0.1
        ),
    ] = 1000.0,
    host: Annotated[str, typer.Option(help="Address to listen on; the default is this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="gRPC port; 0 picks a free one and says which.", min=0, max=65535)] = 8001,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads per model; default: all usable cores, also when they change, or 1 where more do not pay.",
            min=1,
        ),
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port for Prometheus text, off by default; 0 picks one.", min=0, max=65535)
    ] = None,
    grace_s: Annotated[float, typer.Option(help="Seconds running requests get when the server stops.", min=0.0)] = 30.0,
    level: Annotated[
        int | None,
        typer.Option(help="Serve every request at this level instead of choosing; -1 is the densest.", min=-1),
    ] = None,
    priority: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=N: of the models served together, the one with the higher N goes first (default 0); repeatable.",
            metavar="NAME=N",
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help=f"How the level of a request is chosen: {POLICY_NAMES}.", metavar="NAME", show_default=False),
    ] = None,
    request_samples: Annotated[
        int,
        typer.Option(
            "--max-batch",
            help="Bounds the size of a message: that of so many samples of the largest model, but at least 4 MiB. "
            "Waiting requests are joined to runs of at most so many samples, and at most 16; 1: they never are.",
            min=1,
        ),
    ] = 64,
    min_memory_mb: Annotated[
        int,
        typer.Option(
            help="MiB of memory to leave available; below that, the level and what is resident fall. 0: off.", min=0
        ),
    ] = 64,
    max_temperature: Annotated[
        float | None,
        typer.Option(
            help="°C of the hottest thermal zone above which the level falls; off by default.", min=0, max=150
        ),
    ] = None,
    min_battery: Annotated[
        float | None,
        typer.Option(
            help="Charge in % below which, while discharging, level 0 is the highest; off by default.", min=0, max=100
        ),
    ] = None,
    min_frequency: Annotated[
        float | None,
        typer.Option(
            help="Share of the CPU's highest frequency below which the level falls; off by default.", min=0, max=0.9
        ),
    ] = None,
    profile_cache: Annotated[
        str,
        typer.Option(
            help="Folder in which measured latencies are kept between starts, or `off`; "
            "default: nested-sparse/profiles under $XDG_CACHE_HOME or ~/.cache.",
            metavar="DIR",
            show_default=False,
        ),
    ] = "",
    json: Annotated[
        bool, typer.Option("--json", help="When ready, print one JSON line with addresses and models.")
    ] = False,
) -> None:
    """Serve checkpoints over gRPC (Open Inference Protocol v2), each request at the densest level its deadline allows.

    A request's deadline is the least of its gRPC deadline, its parameter `slo_ms`, and `--slo-ms`. SIGTERM or SIGINT
    stops it in order: health says NOT_SERVING, new requests get UNAVAILABLE, running ones finish; exit code 0. Before
    the models are ready they end it at once, with exit code 143 or 130.

    Example: `nested-sparse serve model.safetensors --slo-ms 50 --metrics-port 9001`
    """
    from nested_sparse.runtime.policy import DEFAULT_POLICY, policy_named
    from nested_sparse.runtime.profiling import ProfileStore, default_folder
    from nested_sparse.runtime.resources import Governor, LimitConfig, ResourceMonitor
    from nested_sparse.runtime.scheduling import Device
    from nested_sparse.runtime.session import Session

    from ..connections.listening import check_ports
    from ..load import ModelConfig, check_files, load_model, read_priorities
    from ..server import ServerConfig

    policy = DEFAULT_POLICY if policy is None else policy
    try:
        policy_named(policy)
    except InputError as error:
        raise typer.BadParameter(str(error).removeprefix("policy: "), param_hint="--policy") from None
    if level is not None and policy != DEFAULT_POLICY:
        raise typer.BadParameter("a fixed --level leaves nothing to choose; give one of the two", param_hint="--policy")
    with contextlib.suppress(ValueError, OSError):  # stderr may not be a file
        faulthandler.enable()  # a crash, as from a file that is cut off during a run, leaves a trace on stderr
    sys.setswitchinterval(SWITCH_S)
    config = ServerConfig(
        host=host, port=port, metrics_port=metrics_port, grace_s=grace_s, request_samples=request_samples
    )
    check_files(files)
    priorities = read_priorities(priority or [], files)
    device = Device()
    limits = LimitConfig(
        min_available_memory_bytes=min_memory_mb << 20 if min_memory_mb else None,
        max_temperature_celsius=max_temperature,
        min_frequency_share=min_frequency,
        min_battery_percent=min_battery,
    )
    governor = Governor(ResourceMonitor(), limits)
    check_ports(host, port, metrics_port)  # before the models load, which may take minutes
    folder = default_folder() if profile_cache == "" else Path(profile_cache)
    profiles = None if profile_cache == "off" or folder is None else ProfileStore(folder)
    with ended_by_signals(), ExitStack() as sessions:
        models = [
            load_model(
                sessions.enter_context(Session(path, threads=threads)),
                ModelConfig(
                    default_slo_ms=slo_ms,
                    fixed_level=level,
                    policy=policy,
                    priority=priorities[path.stem],
                    joined_samples=request_samples,
                    choose_threads=threads is None,
                ),
                device,
                profiles,
                governor,
            )
            for path in files
        ]
        with governor:
            asyncio.run(_serve(models, config, json))
        if stuck := [model.name for model in models if model.engine.stats().stuck]:
            log.error("ended with an inference of %s still stuck", ", ".join(stuck))
            os._exit(1)  # closing the session would wait for the inference


async def _serve(models: list[ServedModel], config: ServerConfig, json: bool) -> None:
    from ..server import Server

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    server = Server(models, config)
    await server.start()
    try:
        _announce(server, models, json)
        await stop.wait()
    finally:  # also if the announcement cannot be written
        for number in SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, end_draining)
        log.info("draining, at most %g s", config.grace_s)
        await server.drain()
    log.info("stopped")


def _announce(server: Server, models: list[ServedModel], json: bool) -> None:
    for model in models:
        levels = f"levels 0 to {len(model.levels) - 1}"
        log.info(
            "serving %s on %s (%s, isa %s, threads %d)", model.name, server.address, levels, model.isa, model.threads
        )
    if server.metrics_address:
        log.info("metrics on http://%s/metrics", server.metrics_address)
    if json:
        facts = [
            {"name": model.name, "levels": len(model.levels), "isa": model.isa, "threads": model.threads}
            for model in models
        ]
        print_json({"address": server.address, "metrics_address": server.metrics_address or None, "models": facts})
