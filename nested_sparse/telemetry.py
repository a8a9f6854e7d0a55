"""Telemetry: data that ONNX Runtime sends to its maker from its import on. This package switches that off."""

from __future__ import annotations

import logging
import os
import sys

VARIABLE = "ORT_DISABLE_TELEMETRY"
_LOGGER = logging.getLogger("nested_sparse")


def switch_off() -> None:
    """Switch it off for this process and the processes that it starts, unless the user has set VARIABLE to any value.

    ONNX Runtime 1.32 reads the variable once, while it is imported. Without the variable it opens a database in the
    cache directory and sends its contents over HTTPS; disable_telemetry_events() comes too late. So this package sets
    the variable when it is imported itself, before any of its modules can import onnxruntime. Where the user has
    imported onnxruntime first, one line in the log says so.
    """
    if VARIABLE in os.environ:
        return
    os.environ[VARIABLE] = "1"
    if "onnxruntime" in sys.modules:
        _LOGGER.warning(
            "onnxruntime was imported before nested_sparse, so its telemetry, where this build has one, is on in this "
            "process; import nested_sparse first, or set %s=1 in the environment",
            VARIABLE,
        )
