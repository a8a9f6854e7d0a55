"""One checkpoint, open: its graph in ONNX Runtime, its memory, its file, and runs at any of its levels."""

from __future__ import annotations

from .guard import Guard
from .level_cell import LevelCell
from .lowering import Lowering
from .ort_session import open_plain
from .process_memory import anonymous_bytes, return_freed
from .session import Session
from .tensors import (
    Array,
    Arrays,
    CheckedInputs,
    batch_size,
    check_inputs,
    drawn_from,
    fixed_batch,
    in_order,
    is_constant,
    random_inputs,
    value_pool,
)
from .watchdog import Watchdog, stuck_after_s

__all__ = [
    "Array",
    "Arrays",
    "CheckedInputs",
    "Guard",
    "LevelCell",
    "Lowering",
    "Session",
    "Watchdog",
    "anonymous_bytes",
    "batch_size",
    "check_inputs",
    "drawn_from",
    "fixed_batch",
    "in_order",
    "is_constant",
    "open_plain",
    "random_inputs",
    "return_freed",
    "stuck_after_s",
    "value_pool",
]
