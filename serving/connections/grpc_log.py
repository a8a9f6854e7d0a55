"""Filter: removes lines from gRPC's Python log that any client can cause.

A method name that is not UTF-8 makes grpc.aio write three tracebacks, a kilobyte for each such call, which can fill a
disk. The client gets an error, and the server has no fault.
"""

from __future__ import annotations

import logging

GRPC_LOG = "grpc._cython.cygrpc"


def silence_bad_names() -> None:
    """Add the filter to the log of this process."""
    logging.getLogger(GRPC_LOG).addFilter(_is_worth_a_line)  # the same filter once more changes nothing


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, UnicodeDecodeError)
