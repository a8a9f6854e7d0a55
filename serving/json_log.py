"""JsonLog: the format of log records for programs, a JSON object on each line."""

from __future__ import annotations

import json
import logging
import math
import time
from typing import Any

from nested_sparse.excerpt import excerpt

from .log_format import MAX_LINE, LogFormat

MAX_TRACE = 100
"""Most lines of a traceback."""


class JsonLog(LogFormat):
    """One line of ASCII for each record.

    time: in UTC, with milliseconds (ISO 8601). severity: as in the text. logger: the module that wrote it. message: its
    text. event: the same without its values, which is equal for all records of one kind. values: numbers and texts, in
    the order of the event. left_out: number of records of its kind that LogLimit dropped before it. error: the
    traceback, a list of lines.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        whole, milliseconds = divmod(round(record.created * 1000), 1000)
        facts: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{milliseconds:03d}Z",
            "severity": record.levelname,
            "logger": record.name,
            "message": excerpt(record.getMessage(), MAX_LINE),
            "event": excerpt(record.msg, MAX_LINE),
            "values": [_value(each) for each in record.args] if isinstance(record.args, tuple) else [],
        }
        if left_out := getattr(record, "left_out", 0):
            facts["left_out"] = left_out
        if record.exc_info:
            lines = self.formatException(record.exc_info).split("\n")
            facts["error"] = [line.removeprefix("  ") for line in lines[-MAX_TRACE:]]
        return json.dumps(facts)


def _value(value: object) -> object:
    return value if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)) else excerpt(value)
