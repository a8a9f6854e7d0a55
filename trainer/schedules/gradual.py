"""Gradual magnitude pruning: a density that falls while the network trains (arXiv:1710.01878)."""

from __future__ import annotations

from dataclasses import dataclass

from ..checked import require_share
from ..model.nested_model import NestedModel
from .search import Search


@dataclass(frozen=True, slots=True)
class Gradual:
    """Prunes from all weights to the target, by magnitude; a dropped weight may return until the end."""

    end: float = 1.0
    """Progress of the search at which the target is reached."""

    def __post_init__(self) -> None:
        """Check the field. Raises TrainingError."""
        require_share(self, "end")

    @property
    def from_scratch(self) -> bool:
        """False: the search starts from a trained net."""
        return False

    def search(self, net: NestedModel, level: int, density: float) -> Search:
        """A search with falling density."""
        return GradualSearch(net, level, density, self.end)


class GradualSearch(Search):
    """The search of Gradual."""

    def __init__(self, net: NestedModel, level: int, density: float, end: float) -> None:
        super().__init__(net, level, density)
        self._end = end

    def begin(self) -> None:
        """Keep all weights; with end=0, the target."""
        self.keep(1.0 if self._end > 0 else self.density)

    def before_step(self, progress: float, *, update: bool) -> bool:
        """Choose new masks at the present density."""
        if update:
            self.keep(gradual_density(self.density, progress / self._end) if progress < self._end else self.density)
        return update


def gradual_density(target: float, progress: float) -> float:
    """Density, from 1 at progress 0 to `target` at 1, fast at first: the cubic of arXiv:1710.01878, section 3."""
    return target + (1 - target) * (1 - progress) ** 3
