"""Telemetry: what ONNX Runtime's wheels send to their maker from the import on; here it is off."""

from __future__ import annotations

import logging
import os
import sys

VARIABLE = "ORT_DISABLE_TELEMETRY"
_LOGGER = logging.getLogger("nested_sparse")


def switch_off() -> None:
    """Switch it off for this process and those it starts, unless the user has set the variable, to whatever value.

    ONNX Runtime 1.32 reads the variable once, while it is imported: without it, it opens a database in the cache
    directory and sends it over HTTPS; disable_telemetry_events() comes too late. So the package does this when it is
    itself imported, before any of its modules, or what they use, can import onnxruntime. Where the user has imported
    onnxruntime first, one line in the log says so.
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
