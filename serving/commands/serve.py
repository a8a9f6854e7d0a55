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

    from ..repository.loader import Loader
    from ..repository.repository import Repository
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
    from nested_sparse.runtime.session import Session

    from ..connections.listening import check_listenable
    from ..load import check_files
    from ..repository.loader import Loader
    from ..security import Security
    from ..settings.parts import limit_config, model_config, profile_store, server_config

    config = server_config(settings)
    Security(config.security, config.host)  # refuses files and addresses before the models load
    check_files(settings.models.files)
    governor = Governor(ResourceMonitor(), limit_config(settings.limits))
    for port in (config.port, config.metrics_port, config.http_port):
        if port is not None:
            check_listenable(config.host, port)  # before the models load, which may take minutes
    loader = Loader(
        config_of=lambda name: model_config(settings.of_model(name)),
        open_session=lambda path, name: Session(
            path, threads=settings.of_model(name).threads, spin=settings.models.spin
        ),
        profiles=profile_store(settings.models),
        governor=governor,
    )
    with ended_by_signals(), ExitStack() as opened:
        models = []
        for path in settings.models.files:
            loaded = loader.load(path)
            opened.callback(loaded.session.close)
            models.append(loaded.model)
        repository = _repository(settings, loader)
        if repository is not None:
            repository.load_all([model.name for model in models])
        with governor:
            asyncio.run(_serve(models, repository, config, governor, json))
        stuck = [model.name for model in models if model.engine.stats().stuck]
        if stuck := [*stuck, *(repository.stuck if repository is not None else ())]:
            log.error("ended with an inference of %s still stuck", ", ".join(stuck))
            os._exit(1)  # closing the session would wait for the inference


def _repository(settings: Settings, loader: Loader) -> Repository | None:
    from ..repository.folder import ModelFolder
    from ..repository.repository import Repository
    from ..repository.version_policy import VersionPolicy

    if settings.models.model_dir is None:
        return None
    policy = VersionPolicy.read(settings.models.version_policy)
    return Repository(ModelFolder(settings.models.model_dir), loader, policy, settings.limits.grace_s)


async def _serve(
    models: list[ServedModel], repository: Repository | None, config: ServerConfig, governor: Governor, json: bool
) -> None:
    from ..server import Server

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    server = Server(models, config, repository, governor)
    await server.start()
    try:
        _announce(server, json)
        await stop.wait()
    finally:  # also if the announcement cannot be written
        for number in SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, end_draining)
        log.info("draining, at most %g s", config.grace_s)
        await server.drain()
    log.info("stopped")


def _announce(server: Server, json: bool) -> None:
    from ..served_model import VERSION

    for model in server.models:
        name = model.name if model.version == VERSION else f"{model.name}/{model.version}"
        levels = f"levels 0 to {len(model.levels) - 1}"
        log.info("serving %s on %s (%s, isa %s, threads %d)", name, server.address, levels, model.isa, model.threads)
    scheme = "http" if server.security.tls is None else "https"
    if server.metrics_address:
        log.info("metrics on %s://%s/metrics", scheme, server.metrics_address)
    if server.http_address:
        log.info("REST, metrics and dashboard on %s://%s/", scheme, server.http_address)
    if json:
        facts = [
            {
                "name": model.name,
                "version": model.version,
                "levels": len(model.levels),
                "isa": model.isa,
                "threads": model.threads,
            }
            for model in server.models
        ]
        addresses = {
            "address": server.address,
            "metrics_address": server.metrics_address or None,
            "http_address": server.http_address or None,
        }
        print_json({**addresses, "models": facts})
