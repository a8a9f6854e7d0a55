"""Screen: the place of a text that is drawn again and again.

On a terminal a new text replaces the last one. This needs the number of rows that the last one takes, so each row is
folded to the columns of the terminal, and the terminal's own wrapping is off while it is drawn: a terminal may take
another width for a character than Unicode's tables, and a stream writes several characters for one that its encoding
lacks.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from itertools import islice
from typing import TextIO

from .styled import Line

UP = "\x1b[{}A"
ERASE_BELOW = "\r\x1b[J"
"""From the begin of the cursor's row to the end of the screen."""
WRAP_OFF, WRAP_ON = "\x1b[?7l", "\x1b[?7h"


class Screen:
    """A text stream and the rows that were last drawn on it.

    Elsewhere than on a terminal, and where TERM is "dumb", the texts stand one below the other as they are. Where
    NO_COLOR is set, they have no styles.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._in_place = out.isatty() and os.environ.get("TERM") != "dumb"
        self._styled = not os.environ.get("NO_COLOR")
        self._drawn: list[Line] = []

    def draw(self, lines: Sequence[Line]) -> None:
        """Show these lines; of those on a terminal, the first rows that fit. Raises the errors of the stream."""
        # in one piece, so that a terminal does not show a half of it
        self._out.write(self._replacing(lines) if self._in_place else _below(lines))
        self._out.flush()

    def _replacing(self, lines: Sequence[Line]) -> str:
        size = terminal_size(self._out)  # each time: a user may have changed it
        # most terminals fold what they show when they get narrower; the last row is the cursor's
        above = sum(line.reflowed(size.columns) for line in self._drawn)
        rows = (row for line in lines for row in line.folded(size.columns))
        self._drawn = list(islice(rows, max(size.lines - 1, 1)))
        up = UP.format(above) if above else ""  # terminals take 0 for 1
        text = "".join(f"{row.ansi() if self._styled else row.plain()}\n" for row in self._drawn)
        return f"{up}{ERASE_BELOW}{WRAP_OFF}{text}{WRAP_ON}"


def _below(lines: Sequence[Line]) -> str:
    return "".join(f"{line.plain()}\n" for line in lines)


def terminal_size(out: TextIO) -> os.terminal_size:
    """Columns and lines of the terminal of `out`; where it does not know them, those of COLUMNS and LINES, or 80 × 24.

    `shutil` alone would not do: it asks the interpreter's own stdout, which `serving/streams.py` has replaced.
    """
    try:
        size = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):  # it is closed, or no file
        return shutil.get_terminal_size()
    return size if size.columns and size.lines else shutil.get_terminal_size()  # a serial line says 0 × 0
