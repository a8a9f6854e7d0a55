"""LogFormat: the format of log records, in which no text of a client or a file can look like a record of its own."""

from __future__ import annotations

import copy
import logging
import traceback
from types import TracebackType
from typing import TypeAlias

from nested_sparse.excerpt import excerpt

MAX_LINE = 4000
"""Most characters of a log line; longer lines are cut in the middle."""
_ExcInfo: TypeAlias = (
    "tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]"  # logging's own
)


class LogFormat(logging.Formatter):
    """One line for each record: time, severity, message. Control characters and line ends are written as escapes.

    A traceback follows its record indented, so that no line of it looks like a record. Its frames keep their lines; the
    text of the error is one line, like a message.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The text of the record. It is made from a copy, because a record keeps the traceback of another handler."""
        record = copy.copy(record)
        record.exc_text = None
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """The first line."""
        record.message = excerpt(record.message, MAX_LINE)
        if left_out := getattr(record, "left_out", 0):
            record.message += f" (after {left_out} more of its kind, which were left out)"
        return super().formatMessage(record)

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802  # logging's name
        """The traceback, and those of its causes."""
        if ei[1] is None:
            return ""
        chunks = traceback.TracebackException(*ei).format()
        return "\n".join(f"  {line}" for chunk in chunks for line in _lines(chunk))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802  # logging's name
        """The stack of a record that was made with stack_info."""
        return "\n".join(f"  {excerpt(line, MAX_LINE)}" for line in stack_info.split("\n"))


def _lines(chunk: str) -> list[str]:
    """A piece of a traceback: a frame keeps its lines, any other piece becomes one line."""
    lines = chunk.strip("\n").split("\n")
    if all(line.startswith("  ") for line in lines):
        return [excerpt(line, MAX_LINE) for line in lines]
    return [excerpt(chunk.strip("\n"), MAX_LINE)]
