"""Gradual masks: level 0's density falls from 1 to its target while it trains, then all masks stay."""

from __future__ import annotations

from nested_sparse.trainer.choose import choose_masks, keep_everything
from nested_sparse.trainer.nested_model import NestedModel
from nested_sparse.trainer.schedule import gradual_density


class GradualMasks:
    """Masks of `net` over level 0's phase. What is dropped keeps its last value, and may come back until the end.

    end: the progress of the phase, in [0, 1], at which every level's masks are chosen, once and for all.
    """

    def __init__(self, net: NestedModel, end: float, *, final: bool = False) -> None:
        self._net, self._end = net, end
        self.final = final

    def start(self) -> None:
        """All weights, or, when nothing is gradual, the final masks."""
        keep_everything(self._net.nested_layers().values())
        self.choose(0.0)

    def choose(self, progress: float) -> None:
        """Choose by the magnitudes of now. Does nothing once the masks are final."""
        if self.final:
            return
        densities: tuple[float, ...] = self._net.densities
        if progress < self._end:
            densities = (gradual_density(densities[0], progress / self._end),)
        choose_masks(self._net.nested_layers().values(), self._net.budget, densities)
        self.final = progress >= self._end
