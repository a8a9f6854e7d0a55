"""Reach: the bound that a measured figure is to meet, and how a table says whether it does."""

from __future__ import annotations

from dataclasses import dataclass

SIGNS = {">=": "≥", ">": ">", "<=": "≤"}
MET = {None: "", True: "yes", False: "no"}
"""The cell of a table for each result of `met`."""


@dataclass(frozen=True, slots=True)
class Reach:
    """A bound. sign: one of SIGNS; bound: in the unit of the figure."""

    sign: str
    bound: float

    def met(self, measured: float) -> bool:
        """Whether `measured` lies on the right side of the bound."""
        if self.sign == "<=":
            return measured <= self.bound
        return measured > self.bound if self.sign == ">" else measured >= self.bound

    def __str__(self) -> str:
        return f"{SIGNS[self.sign]} {self.bound:g}"


def met(reach: Reach | None, measured: float | None) -> bool | None:
    """Whether `measured` meets `reach`; None where there is no bound or no measurement."""
    return None if reach is None or measured is None else reach.met(measured)
