"""Figure: one row of what the elastic runtime is to reach, measured, or why it could not be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ..reach import Reach, met


@dataclass(frozen=True, slots=True)
class Figure:
    """measured: in `unit`, None where `unavailable` says why. note: how it was measured and what a reader must know.

    details: what it was made of, for the JSON line.
    """

    name: str
    unit: str
    reach: Reach | None
    measured: float | None = None
    note: str = ""
    unavailable: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.measured is None) != bool(self.unavailable) or not math.isfinite(self.measured or 0.0):
            raise ValueError(f"{self.name}: measured and finite, or unavailable with a reason; got {self.measured}")

    @property
    def met(self) -> bool | None:
        """None where nothing was asked or nothing could be measured."""
        return met(self.reach, self.measured)

    def to_json(self) -> dict[str, Any]:
        """Plain types, for the JSON line."""
        return {
            "name": self.name,
            "unit": self.unit,
            "reach": None if self.reach is None else str(self.reach),
            "measured": self.measured,
            "met": self.met,
            "note": self.note,
            "unavailable": self.unavailable,
            "details": self.details,
        }
