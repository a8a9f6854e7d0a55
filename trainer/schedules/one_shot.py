"""One-shot: the largest magnitudes of now, at once."""

from __future__ import annotations

from dataclasses import dataclass

from ..model.nested_model import NestedModel
from .search import Search


@dataclass(frozen=True, slots=True)
class OneShot:
    """Drop everything at once, by magnitude, and go on training with what is left."""

    @property
    def from_scratch(self) -> bool:
        """It starts from a trained net."""
        return False

    def search(self, net: NestedModel, level: int, density: float) -> Search:
        """The base of all searches does just that."""
        return Search(net, level, density)
