"""Gradual magnitude pruning (arXiv:1710.01878): the density falls while the network trains."""

from __future__ import annotations

from dataclasses import dataclass

from ..checked import require_share
from ..model.nested_model import NestedModel
from .search import Search


@dataclass(frozen=True, slots=True)
class Gradual:
    """From all weights to the target, by magnitude; a weight that was dropped may come back until the end."""

    end: float = 1.0
    """Progress of the search at which the target is reached."""

    def __post_init__(self) -> None:
        """Check the field. Raises TrainingError."""
        require_share(self, "end")

    @property
    def from_scratch(self) -> bool:
        """It starts from a trained net."""
        return False

    def search(self, net: NestedModel, level: int, density: float) -> Search:
        """A search whose density falls."""
        return GradualSearch(net, level, density, self.end)


class GradualSearch(Search):
    """See Gradual."""

    def __init__(self, net: NestedModel, level: int, density: float, end: float) -> None:
        super().__init__(net, level, density)
        self._end = end

    def begin(self) -> None:
        """Keep everything, or, when nothing is gradual, the target."""
        self.keep(1.0 if self._end > 0 else self.density)

    def before_step(self, progress: float, *, update: bool) -> bool:
        """Choose anew at the density of now."""
        if update:
            self.keep(gradual_density(self.density, progress / self._end) if progress < self._end else self.density)
        return update


def gradual_density(target: float, progress: float) -> float:
    """From 1 at progress 0 to `target` at 1, fast first, then slower: the cubic of arXiv:1710.01878, section 3."""
    return target + (1 - target) * (1 - progress) ** 3
