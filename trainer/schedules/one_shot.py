"""One-shot: the choice of the largest present magnitudes in one step."""

from __future__ import annotations

from dataclasses import dataclass

from ..model.nested_model import NestedModel
from .search import Search


@dataclass(frozen=True, slots=True)
class OneShot:
    """Drops weights in one step, by magnitude, and then trains the kept ones."""

    @property
    def from_scratch(self) -> bool:
        """False: the search starts from a trained net."""
        return False

    def search(self, net: NestedModel, level: int, density: float) -> Search:
        """A plain Search, which chooses once at the start."""
        return Search(net, level, density)
