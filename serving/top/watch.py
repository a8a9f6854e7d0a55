"""watch: reads a server again and again, and shows its work in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from nested_sparse.errors import UnavailableError

from ..commands.output import print_json
from .counts import Counts
from .rates import Rates, rates_between
from .screen import Screen
from .source import CountsSource
from .view import as_dict, as_text, unreachable_dict


def watch(
    source: CountsSource,
    out: TextIO,
    *,
    interval_s: float,
    refreshes: int | None = None,
    json: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show `refreshes` intervals on `out`; None goes on for ever.

    On a terminal a new interval replaces the last one; elsewhere it stands below it; with `json` it is a JSON line on
    stdout. The server must answer the first time; later it may stop and come back. Raises UnavailableError.
    """
    before: Counts | None = source.read()
    output = _Output(source.address, Screen(out), json)
    done = 0
    while refreshes is None or done < refreshes:
        sleep(interval_s)
        done += 1
        try:
            after = source.read()
        except UnavailableError as error:
            before = None  # the work done meanwhile does not belong to one interval
            output.lose(str(error))
            continue
        if before is not None:
            output.show(rates_between(before, after))
        before = after


class _Output:
    """The output of the readings."""

    def __init__(self, address: str, screen: Screen, json: bool) -> None:
        self._address = address
        self._screen = screen
        self._json = json
        self._last = Rates("", "unreachable", 0.0)

    def show(self, rates: Rates) -> None:
        """Show the rates of an interval."""
        self._last = rates
        if self._json:
            print_json(as_dict(self._address, rates))
        else:
            self._screen.draw(as_text(self._address, rates))

    def lose(self, reason: str) -> None:
        """Show that the server does not answer; the last reading stays visible."""
        if self._json:
            print_json(unreachable_dict(self._address, reason))
        else:
            self._screen.draw(as_text(self._address, self._last, f"unreachable, trying again: {reason}"))
