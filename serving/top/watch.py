"""watch: reads a server again and again, and shows its work in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from rich.console import Console
from rich.live import Live

from nested_sparse.errors import UnavailableError

from ..commands.output import print_json
from .counts import Counts
from .rates import Rates, rates_between
from .source import CountsSource
from .view import as_dict, as_text, unreachable_dict


def watch(
    source: CountsSource,
    console: Console,
    *,
    interval_s: float,
    refreshes: int | None = None,
    json: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show `refreshes` intervals; None goes on for ever.

    On a terminal a new interval replaces the last one; elsewhere it stands below it; with `json` it is a JSON line. The
    server must answer the first time; later it may stop and come back. Raises UnavailableError.
    """
    before: Counts | None = source.read()
    with ExitStack() as stack:
        live: Live | None = None
        if console.is_terminal and not json:
            live = stack.enter_context(Live(console=console, auto_refresh=False))
        screen = _Screen(source.address, console, live, json)
        done = 0
        while refreshes is None or done < refreshes:
            sleep(interval_s)
            done += 1
            try:
                after = source.read()
            except UnavailableError as error:
                before = None  # the work done meanwhile does not belong to one interval
                screen.lose(str(error))
                continue
            if before is not None:
                screen.show(rates_between(before, after))
            before = after


class _Screen:
    """The output of the readings."""

    def __init__(self, address: str, console: Console, live: Live | None, json: bool) -> None:
        self._address = address
        self._console = console
        self._live = live
        self._json = json
        self._last = Rates("", "unreachable", 0.0)

    def show(self, rates: Rates) -> None:
        """Show the rates of an interval."""
        self._last = rates
        if self._json:
            print_json(as_dict(self._address, rates))
        else:
            self._draw("")

    def lose(self, reason: str) -> None:
        """Show that the server does not answer; the last reading stays visible."""
        if self._json:
            print_json(unreachable_dict(self._address, reason))
        else:
            self._draw(f"unreachable, trying again: {reason}")

    def _draw(self, lost: str) -> None:
        text = as_text(self._address, self._last, lost)
        if self._live is None:
            self._console.print(text)
        else:
            self._live.update(text, refresh=True)
