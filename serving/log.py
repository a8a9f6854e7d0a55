"""Log: the place, the format and the bound of this process's log records."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Mapping
from typing import Any

from .json_log import JsonLog
from .log_format import LogFormat
from .log_limit import LogLimit

FORMATS: Mapping[str, type[LogFormat]] = {"text": LogFormat, "json": JsonLog}


def set_up_log() -> None:
    """Write the log to stderr: our records from INFO on, those of libraries from WARNING on, errors that end
    threads."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATS["text"]())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("nested_sparse").setLevel(logging.INFO)
    threading.excepthook = _log_end_of_thread


def use_format(name: str) -> None:
    """Write the log in another of the FORMATS from now on."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, LogFormat):
            handler.setFormatter(FORMATS[name]())


def limit_lines() -> None:
    """Bound the lines of the log from now on; before clients come, there is no need."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, LogFormat):
            handler.addFilter(LogLimit())


def _log_end_of_thread(ended: Any) -> None:
    if issubclass(ended.exc_type, SystemExit):  # as Python's own hook
        return
    name = ended.thread.name if ended.thread is not None else "?"
    logging.getLogger(__name__).error(
        "thread %s ended", name, exc_info=(ended.exc_type, ended.exc_value, ended.exc_traceback)
    )
