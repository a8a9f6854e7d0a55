"""Figure: one target of the elastic runtime, measured, or the reason why it could not be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ..reach import Reach, met


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of the report.

    measured: in `unit`; None where it could not be measured. unavailable: the reason then, else "". note: how it was
    measured and how to read it. details: the values behind it, for the JSON line.
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
        """Whether the bound is met; None without a bound or a measurement."""
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
