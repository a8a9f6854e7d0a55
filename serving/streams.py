"""Streams: standard input, output and error, made usable for the command line in whatever state they are.

A service manager may have closed them, a small system may have an ASCII terminal, the disk under a log may be full. A
closed stream becomes the null device. A character that the encoding lacks is replaced by a similar one. A result that
cannot be written is an OutputError. A message that cannot be written is lost, and the work goes on.
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
    """Standard output. Text that cannot be written raises OutputError; without a reader, BrokenPipeError."""

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
        # otherwise the interpreter would flush the buffer at its end, fail again and report that
        _fill(self.fileno())
        if isinstance(error, BrokenPipeError):
            return error
        reason = error.strerror or error
        return OutputError(f"the standard output cannot be written ({reason}); free the disk, or send it elsewhere")


class Messages(io.TextIOWrapper):
    """Standard error. A message that cannot be written is lost, and the work goes on."""

    def write(self, text: str) -> int:
        """As of any text stream, but it raises no error of the system."""
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        """As of any text stream, but it raises no error of the system."""
        try:
            super().flush()
        except OSError:
            return


def prepare_streams() -> None:
    """Make all three streams usable. Call it once, at the start of a process, before anything is opened or printed.

    Streams that were put in the place of the interpreter's own are left as they are.
    """
    codecs.register_error(NARROW, _likeness)
    for number in (0, 1, 2):  # in this order, because a file that is opened gets the lowest free number
        _occupy(number)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays open as long as the process
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = Results(**_parts(sys.stdout, 1))
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = Messages(**_parts(sys.stderr, 2))


def _parts(stream: Any, number: int) -> dict[str, Any]:
    """Arguments for a stream of ours in place of the interpreter's: its buffer, its settings, our error handler."""
    if stream is None:
        return {"buffer": open(number, "wb", closefd=False), "encoding": "utf-8", "errors": NARROW}
    kept = {name: getattr(stream, name) for name in ("encoding", "line_buffering", "write_through")}
    return {"buffer": stream.detach(), "errors": NARROW, **kept}


def _occupy(number: int) -> None:
    """Open the null device under a standard number that is closed.

    Otherwise the next file that is opened would get that number, and output of C libraries would go into that file.
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
    """Replacement for characters that an encoding lacks: similar characters, else Python's escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    shown = "".join(LIKENESSES.get(each) or each.encode("ascii", "backslashreplace").decode("ascii") for each in text)
    return shown, error.end
