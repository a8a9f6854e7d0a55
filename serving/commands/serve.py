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

from nested_sparse.errors import SettingsError
from nested_sparse.excerpt import paragraph

from ..ending import SIGNALS, end_draining, ended_by_signals
from ..settings.flags import given_flags, with_flags
from ..settings.settings import Settings, read_settings
from .output import print_json

if TYPE_CHECKING:
    from nested_sparse.runtime.resources import Governor

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


@with_flags
def serve(
    context: typer.Context,
    files: Annotated[
        list[Path] | None, typer.Argument(help="Checkpoints; each is served under its file's stem.", metavar="FILE")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file of all that the flags below say, and more; flags override it.", metavar="FILE"),
    ] = None,
    priority: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=N: of the models served together, the one with the higher N goes first (default 0); repeatable.",
            metavar="NAME=N",
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="When ready, print one JSON line with addresses and models.")
    ] = False,
    **flags: Any,
) -> None:
    """Serve checkpoints over gRPC (Open Inference Protocol v2), each request at the densest level its deadline allows.

    A request's deadline is the least of its gRPC deadline, its parameter `slo_ms`, and `--slo-ms`. SIGTERM or SIGINT
    stops it in order: health says NOT_SERVING, new requests get UNAVAILABLE, running ones finish; exit code 0. Before
    the models are ready they end it at once, with exit code 143 or 130.

    Example: `nested-sparse serve model.safetensors --slo-ms 50 --metrics-port 9001`
    """
    tables = given_flags(context, priority or [])
    if files:
        tables.setdefault("models", {})["files"] = files
    try:
        settings = read_settings(config, tables)
    except SettingsError as error:
        print(f"nested-sparse: {paragraph(str(error))}", file=sys.stderr)
        raise typer.Exit(2) from None
    with contextlib.suppress(ValueError, OSError):  # stderr may not be a file
        faulthandler.enable()  # a crash, as from a file that is cut off during a run, leaves a trace on stderr
    sys.setswitchinterval(SWITCH_S)
    _run(settings, json)


def _run(settings: Settings, json: bool) -> None:
    """Load the models, and serve them until a signal."""
    from nested_sparse.runtime.resources import Governor, ResourceMonitor
    from nested_sparse.runtime.scheduling import Device
    from nested_sparse.runtime.session import Session

    from ..connections.listening import check_listenable
    from ..load import check_files, load_model
    from ..security import Security
    from ..settings.parts import limit_config, model_config, profile_store, server_config

    config = server_config(settings)
    Security(config.security, config.host)  # refuses files and addresses before the models load
    check_files(settings.models.files)
    device = Device()
    governor = Governor(ResourceMonitor(), limit_config(settings.limits))
    for port in (config.port, config.metrics_port, config.http_port):
        if port is not None:
            check_listenable(config.host, port)  # before the models load, which may take minutes
    profiles = profile_store(settings.models)
    with ended_by_signals(), ExitStack() as sessions:
        models = []
        for path in settings.models.files:
            own = settings.of_model(path.stem)
            session = sessions.enter_context(Session(path, threads=own.threads, spin=settings.models.spin))
            models.append(load_model(session, model_config(own), device, profiles, governor))
        with governor:
            asyncio.run(_serve(models, config, governor, json))
        if stuck := [model.name for model in models if model.engine.stats().stuck]:
            log.error("ended with an inference of %s still stuck", ", ".join(stuck))
            os._exit(1)  # closing the session would wait for the inference


async def _serve(models: list[ServedModel], config: ServerConfig, governor: Governor, json: bool) -> None:
    from ..server import Server

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    server = Server(models, config, governor)
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
    scheme = "http" if server.security.tls is None else "https"
    if server.metrics_address:
        log.info("metrics on %s://%s/metrics", scheme, server.metrics_address)
    if server.http_address:
        log.info("REST, metrics and dashboard on %s://%s/", scheme, server.http_address)
    if json:
        facts = [
            {"name": model.name, "levels": len(model.levels), "isa": model.isa, "threads": model.threads}
            for model in models
        ]
        addresses = {
            "address": server.address,
            "metrics_address": server.metrics_address or None,
            "http_address": server.http_address or None,
        }
        print_json({**addresses, "models": facts})
