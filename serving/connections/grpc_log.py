"""gRPC's Python log: without what any client could write into it.

A method's name that is no UTF-8 makes grpc.aio write three tracebacks, a kilobyte for each such call, and fills a disk.
Its client is told; nothing of the server is at fault.
"""

from __future__ import annotations

import logging

GRPC_LOG = "grpc._cython.cygrpc"


def silence_bad_names() -> None:
    """From now on, in this process."""
    logging.getLogger(GRPC_LOG).addFilter(_is_worth_a_line)  # the same filter once more changes nothing


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, UnicodeDecodeError)
