"""Default nesting: the method of a run that names none."""

from __future__ import annotations

from typing import Any

from .interleaved import TOGETHER


def default_nesting(schedule: Any) -> str:
    """The name, in NESTINGS, of the method that measured best (docs/results.md) among those that `schedule` allows."""
    return "interleaved" if isinstance(schedule, TOGETHER) else "freeze_then_grow"
