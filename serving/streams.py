"""Streams: standard input, output and error as the command line uses them, whatever it is started with.

A service manager closes them, a small system has a terminal of ASCII, a disk under a log runs full. What is closed is
the null device from then on; what is too narrow for a character shows a likeness of it; a result that cannot be written
is an error of ours; a message that cannot be written is lost, and the work goes on.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import Any

from nested_sparse.errors import OutputError

NARROW = "nested_sparse_narrow"
"""Name of the error handler for characters that a stream's encoding does not have."""
LIKENESSES = {
    "×": "x", "·": ".", "…": "...", "–": "-", "—": "-", "−": "-", "≤": "<=", "≥": ">=", "→": "->", "°": "deg",
    "µ": "u", "²": "^2", "│": "|", "┃": "|", "─": "-", "━": "-", "═": "=", "█": "#", "•": "*", "“": '"', "”": '"',
    "‘": "'", "’": "'",
}  # fmt: skip


class Results(io.TextIOWrapper):
    """Standard output. Text that cannot be written is an OutputError; a reader that has gone stays BrokenPipeError."""

    def write(self, text: str) -> int:
        """As of any text stream. Raises OutputError."""
        try:
            return super().write(text)
        except OSError as error:
            raise self._failed(error) from None

    def flush(self) -> None:
        """As of any text stream. Raises OutputError."""
        try:
            super().flush()
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> OSError | OutputError:
        # what is still in the buffer would fail again when the interpreter flushes it at its end, and be said then
        _fill(self.fileno())
        if isinstance(error, BrokenPipeError):
            return error
        reason = error.strerror or error
        return OutputError(f"the standard output cannot be written ({reason}); free the disk, or send it elsewhere")


class Messages(io.TextIOWrapper):
    """Standard error. A message that cannot be written is lost, and the work goes on."""

    def write(self, text: str) -> int:
        """As of any text stream, and raises nothing of the system's."""
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        """As of any text stream, and raises nothing of the system's."""
        try:
            super().flush()
        except OSError:
            return


def prepare_streams() -> None:
    """Make all three streams usable. Once, at the start of a process, before anything is opened or printed.

    Streams that somebody has put in the place of the interpreter's own are left as they are.
    """
    codecs.register_error(NARROW, _likeness)
    for number in (0, 1, 2):  # in this order: the lowest free number is the one that an opened file gets
        _occupy(number)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays open as long as the process
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = Results(**_parts(sys.stdout, 1))
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = Messages(**_parts(sys.stderr, 2))


def _parts(stream: Any, number: int) -> dict[str, Any]:
    """What a stream of ours is made of: that of the interpreter, with what it does with characters it cannot encode."""
    if stream is None:
        return {"buffer": open(number, "wb", closefd=False), "encoding": "utf-8", "errors": NARROW}
    kept = {name: getattr(stream, name) for name in ("encoding", "line_buffering", "write_through")}
    return {"buffer": stream.detach(), "errors": NARROW, **kept}


def _occupy(number: int) -> None:
    """Open the null device under a standard number that is closed: else the next file opened would get that number.

    Then what a C library prints would go into that file.
    """
    try:
        os.fstat(number)
    except OSError:
        _fill(number)


def _fill(number: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
    os.set_inheritable(number, True)


def _likeness(error: UnicodeError) -> tuple[str, int]:
    """Characters that an encoding lacks: what looks alike, else Python's escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    shown = "".join(LIKENESSES.get(each) or each.encode("ascii", "backslashreplace").decode("ascii") for each in text)
    return shown, error.end
