"""`nested-sparse serve`: run the server until a signal stops it."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nested_sparse.errors import NestedSparseError, SettingsError
from nested_sparse.excerpt import paragraph

from ..ending import SIGNALS, end_draining, ended_by_signals
from ..fetching.address import is_url
from ..log import limit_lines, use_format
from ..malloc_arenas import limit_arenas
from ..settings.flags import given_flags, with_flags
from ..settings.settings import Settings, read_settings
from ..uncollected import uncollected
from .command import PATH, Command, argument
from .output import print_json, print_line, print_table

if TYPE_CHECKING:
    from nested_sparse.runtime.resources import Governor

    from ..fetching.followers import Followers
    from ..repository.loader import Loader
    from ..repository.repository import Repository
    from ..served_model import ServedModel
    from ..server import Server, ServerConfig
    from ..settings.reload import Reload

SWITCH_S = 0.0002
"""The longest time for which a thread keeps the interpreter while another one waits for it. With Python's default of
5 ms, a busy event loop delayed the end of every run by as much: runs of 0.1 ms looked fifty times slower than
profiled."""
POLICY_NAMES = "{policies}"
"""Stands in the help of --policy for the names, which are imported with the runtime."""
log = logging.getLogger(__name__)


class ServeCommand(Command):
    """`serve`, whose help names the policies. They are imported when the help is asked for, not with every verb."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As any command's."""
        from nested_sparse.runtime.policy import DEFAULT_POLICY, POLICIES

        names = "; ".join(f"`{name}` ({kind.summary})" for name, kind in POLICIES.items())
        for option in self.params:
            if isinstance(option, click.Option) and option.help is not None:
                option.help = option.help.replace(POLICY_NAMES, f"{names}; default: {DEFAULT_POLICY}")
        super().format_options(ctx, formatter)


@click.pass_context
@argument(
    "files",
    nargs=-1,
    metavar="[FILE|URL]...",
    help="Checkpoints; each is served under its file's stem. A URL of http or https is fetched, and followed.",
)
@click.option(
    "--config",
    type=PATH,
    metavar="FILE",
    help="TOML file of all that the flags below say, and more; flags override it.",
)
@click.option(
    "--priority",
    multiple=True,
    metavar="NAME=N",
    help="NAME=N: of the models served together, the one with the higher N goes first (default 0); repeatable.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Say what would be served, and every mistake, and end: exit code 0, or 2 with mistakes.",
)
@click.option(
    "--json", is_flag=True, help="When ready, print one JSON line with addresses and models; with --check too."
)
@with_flags
def serve(
    context: click.Context,
    files: tuple[str, ...],
    config: Path | None,
    priority: tuple[str, ...],
    check: bool,
    json: bool,
    **flags: Any,
) -> None:
    """Serve checkpoints over gRPC (Open Inference Protocol v2), each request at the densest level its deadline allows.

    A request's deadline is the least of its gRPC deadline, its parameter `slo_ms`, and `--slo-ms`. SIGTERM or SIGINT
    stops it in order: health says NOT_SERVING, new requests get UNAVAILABLE, running ones finish; exit code 0. Before
    the models are ready they end it at once, with exit code 143 or 130.

    Example: `nested-sparse serve model.safetensors --slo-ms 50 --metrics-port 9001`
    """
    tables = given_flags(context, priority)
    if files:
        tables.setdefault("models", {})["files"] = [Path(each) for each in files if not is_url(each)]
        tables.setdefault("fetching", {})["urls"] = [each for each in files if is_url(each)]
    read = partial(read_settings, config, tables)
    try:
        settings = read()
    except SettingsError as error:
        if check and json:
            print_json({"addresses": {}, "security": {}, "models": [], "problems": str(error).splitlines()})
        raise _wrong(str(error)) from None
    if check:
        return _check(settings, str(config or "serve"), json)
    with contextlib.suppress(ValueError, OSError):  # stderr may not be a file
        faulthandler.enable()  # a crash, as from a file that is cut off during a run, leaves a trace on stderr
    limit_arenas()  # before any thread starts
    sys.setswitchinterval(SWITCH_S)
    use_format(settings.watching.log_format)
    try:
        _run(settings, json, read if config is not None or settings.fetching.urls else None)
    except (NestedSparseError, OSError) as error:
        if settings.watching.log_format == "text":
            raise  # main() writes it
        log.critical("%s", error)
        raise click.exceptions.Exit(1) from None


def _wrong(text: str) -> click.exceptions.Exit:
    """The end of a command that was told what cannot be, after the line that says so."""
    print(f"nested-sparse: {paragraph(text)}", file=sys.stderr)
    return click.exceptions.Exit(2)


def _check(settings: Settings, source: str, json: bool) -> None:
    from ..settings.check import checked

    found = checked(settings)
    if json:
        print_json(asdict(found))
    else:
        columns = ("name", "version", "file", "levels", "slo_ms", "priority", "level", "policy", "threads")
        rows = [["" if model[key] is None else model[key] for key in columns] for model in found.models]
        print_table("would be served:", columns, rows)
        for name, address in found.addresses.items():
            print_line(f"{name} on {address}")
        print_line(f"security: {', '.join(f'{key} {value}' for key, value in found.security.items()) or 'none'}")
        for warning in found.warnings:
            print_line(f"warning: {warning}")
    if found.problems:
        raise _wrong("\n".join([f"{source}:", *found.problems]))


def _run(settings: Settings, json: bool, read: Callable[[], Settings] | None) -> None:
    """Load the models, and serve them until a signal. read: for SIGHUP; None: a SIGHUP ends the process."""
    from ..settings.fetched import followers_of

    with ended_by_signals(), ExitStack() as opened:
        followers = followers_of(settings)
        if followers is not None:
            opened.callback(followers.close)
            followers.start()  # bytes come while the libraries are imported, which takes most of the start
        _load_and_serve(settings, json, read, followers, opened)


def _load_and_serve(
    settings: Settings,
    json: bool,
    read: Callable[[], Settings] | None,
    followers: Followers | None,
    opened: ExitStack,
) -> None:
    with uncollected():
        from nested_sparse.runtime.resources import Governor, ResourceMonitor

        from ..connections.listening import check_listenable
        from ..connections.unix_socket import UnixSocket
        from ..load import file_problems
        from ..security import Security
        from ..settings.parts import limit_config, loader_of, server_config
        from ..settings.reload import Reload

    config = server_config(settings)
    Security(config.security, config.host)  # refuses files and addresses before the models load
    reload = Reload(settings, read, (lambda: None) if followers is None else followers.poll)
    for problem in file_problems(settings.models.files):
        raise problem
    governor = Governor(ResourceMonitor(), limit_config(settings.limits))
    for port in (config.port, config.metrics_port, config.http_port):
        if port is not None:
            check_listenable(config.host, port)  # before the models load, which may take minutes
    for path in (config.unix_socket, config.http_unix_socket):
        if path is not None:
            UnixSocket(path).check()
    loader = loader_of(lambda: reload.settings, governor)
    if followers is not None:
        loader = followers.trusting(loader)
    models = []
    for path in settings.models.files:
        loaded = loader.load(path)
        opened.callback(loaded.session.close)
        models.append(loaded.model)
    if followers is not None:
        followers.wait(not models and settings.models.model_dir is None, lambda: reload.early)
    repository = _repository(settings, loader, followers)
    if repository is not None:
        repository.load_all([model.name for model in models])
    with governor:
        asyncio.run(_serve(models, repository, config, governor, reload, followers, json))
    stuck = [model.name for model in models if model.engine.stats().stuck]
    if stuck := [*stuck, *(repository.stuck if repository is not None else ())]:
        log.error("ended with an inference of %s still stuck", ", ".join(stuck))
        os._exit(1)  # closing the session would wait for the inference
    if repository is not None and repository.given_up:
        os._exit(0)  # the interpreter must not end under the thread that loads


def _repository(settings: Settings, loader: Loader, followers: Followers | None) -> Repository | None:
    from ..repository.folder import ModelFolder
    from ..repository.repository import Repository
    from ..repository.version_policy import VersionPolicy

    named = settings.models.model_dir
    folder = None if named is None else ModelFolder(named)
    if followers is not None:
        folder = followers.folder(folder)
    if folder is None:
        return None
    policy = VersionPolicy.read(settings.models.version_policy)
    return Repository(folder, loader, policy, settings.limits.grace_s)


async def _serve(
    models: list[ServedModel],
    repository: Repository | None,
    config: ServerConfig,
    governor: Governor,
    reload: Reload,
    followers: Followers | None,
    json: bool,
) -> None:
    from ..fetching.fetch_metrics import FetchMetrics
    from ..server import Server

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    server = Server(models, config, repository, governor)
    if followers is not None:
        server.export(FetchMetrics(followers.followers))
    await server.start()
    reloads = asyncio.create_task(reload.watch(server, governor))
    if followers is not None and repository is not None:
        followers.attach(repository)
    try:
        _announce(server, json)
        limit_lines()
        await stop.wait()
    finally:  # also if the announcement cannot be written
        for number in SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, end_draining)
        reloads.cancel()
        if followers is not None:
            followers.close()
        log.info("draining, at most %g s", reload.settings.limits.grace_s)
        await server.drain()
    log.info("stopped")


def _announce(server: Server, json: bool) -> None:
    from ..served_model import VERSION

    for model in server.models:
        name = model.name if model.version == VERSION else f"{model.name}/{model.version}"
        levels = f"levels 0 to {len(model.levels) - 1}"
        log.info("serving %s on %s (%s, isa %s, threads %d)", name, server.address, levels, model.isa, model.threads)
    if server.unix_address:
        log.info("serving them on %s too", server.unix_address)
    scheme = "http" if server.security.tls is None else "https"
    if server.metrics_address:
        log.info("metrics on %s://%s/metrics", scheme, server.metrics_address)
    if server.http_address:
        log.info("REST, metrics and dashboard on %s://%s/", scheme, server.http_address)
    if server.http_unix_address:
        log.info("REST, metrics and dashboard on %s, as http", server.http_unix_address)
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
            "unix_address": server.unix_address or None,
            "metrics_address": server.metrics_address or None,
            "http_address": server.http_address or None,
            "http_unix_address": server.http_unix_address or None,
        }
        print_json({**addresses, "models": facts})
