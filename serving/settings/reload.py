"""Reload: settings that are read again while the server runs; some take effect at once."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

from nested_sparse.errors import SettingsError
from nested_sparse.excerpt import excerpt
from nested_sparse.options import toml_text
from nested_sparse.runtime.resources import Governor
from nested_sparse.runtime.scheduling import Scheduler

from ..ending import EarlySignal
from ..log import use_format
from ..server import Server
from .groups import OwnModel
from .parts import limit_config
from .setting import settings_of
from .settings import GROUPS, OWN, Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """A value that differs. live: it takes effect while the server runs; else at its next start."""

    table: str
    key: str
    before: Any
    after: Any
    live: bool

    def __str__(self) -> str:
        return f"[{excerpt(self.table)}] {self.key}: {_shown(self.before)} -> {_shown(self.after)}"


def differences(before: Settings, after: Settings) -> Iterator[Change]:
    """The values that differ, in the order of the file."""
    for table in GROUPS:
        yield from _of_group(table, getattr(before, table), getattr(after, table))
    for name in sorted({*before.model, *after.model}):
        yield from _of_group(f"{OWN}.{name}", before.model.get(name, OwnModel()), after.model.get(name, OwnModel()))


def changed(before: Settings, after: Settings) -> Settings:
    """`before`, with all that can change while the server runs as in `after`."""
    groups = {table: _changed_group(getattr(before, table), getattr(after, table)) for table in GROUPS}
    names = {**before.model, **after.model}
    own = {
        name: _changed_group(before.model.get(name, OwnModel()), after.model.get(name, OwnModel())) for name in names
    }
    return Settings(**groups, model=own)


class Reload:
    """Reads the settings again at each SIGHUP and applies those that can change. An early signal waits for watch().

    settings: those in force. read: reads the files and flags again; raises SettingsError. None: signals are left alone.
    heard: called at each signal. early: number of signals before watch().
    """

    def __init__(
        self, settings: Settings, read: Callable[[], Settings] | None, heard: Callable[[], None] = lambda: None
    ) -> None:
        self._heard = heard
        self.settings = settings
        self.early = 0
        self._read = read
        self._asked = asyncio.Event()
        if read is not None:
            before = signal.signal(signal.SIGHUP, self._note)
            if isinstance(before, EarlySignal) and before.seen:
                self._note()

    def _note(self, *_: object) -> None:
        self.early += 1
        self._asked.set()

    async def watch(self, server: Server, governor: Governor) -> None:
        """Reload until cancelled. A file that is wrong, or cannot be read, changes nothing."""
        if self._read is None:
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._asked.set)
        try:
            await self._obey(self._read, server, governor)
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            signal.signal(signal.SIGHUP, lambda *_: None)  # by default it would kill a server that is about to end

    async def _obey(self, read: Callable[[], Settings], server: Server, governor: Governor) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            self._heard()
            try:
                after = await asyncio.to_thread(read)  # a large file takes long to parse
                before, self.settings = self.settings, changed(self.settings, after)
                apply(before, self.settings, server, governor)
                log_changes(list(differences(before, after)))
            except SettingsError as error:
                log.error("the settings stay as they are: %s", error)
            except Exception:  # a fault of ours; the next signal is obeyed all the same
                log.exception("the settings could not be changed")


def apply(before: Settings, after: Settings, server: Server, governor: Governor) -> None:
    """Change the server and its models from `before` to `after`, which differ in live settings alone."""
    use_format(after.watching.log_format)
    for model in server.models:
        own = after.of_model(model.name)
        assert own.slo_ms is not None
        model.default_slo_ms = own.slo_ms
        scheduler = cast(Scheduler, model.engine)
        scheduler.change(default_slo_ms=own.slo_ms, priority=own.priority)
        limits = limit_config(own)
        is_new = limits != limit_config(before.of_model(model.name))
        governor.change(scheduler, own.priority, limits if is_new else None)
    server.change(after.limits.grace_s)


def log_changes(changes: Sequence[Change]) -> None:
    """A line for each."""
    for change in changes:
        if change.live:
            log.info("changed: %s", change)
        else:
            log.warning("needs a restart: %s", change)
    if not changes:
        log.info("the settings are as before")


def _of_group(table: str, before: Any, after: Any) -> Iterator[Change]:
    for key, facts in settings_of(type(before)).items():
        old, new = getattr(before, key), getattr(after, key)
        if old != new:
            yield Change(table, key, old, new, facts.live)


def _changed_group(before: Any, after: Any) -> Any:
    facts = settings_of(type(before))
    return replace(before, **{key.name: getattr(after, key.name) for key in fields(before) if facts[key.name].live})


def _shown(value: Any) -> str:
    return "none" if value is None else excerpt(toml_text(value))
