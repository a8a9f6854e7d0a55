"""RigL: sparse training from the start, in which weights move to the largest gradients (arXiv:1911.11134)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nested_sparse.errors import TrainingError

from ..checked import require_one_of, require_share
from ..model.choose import keep_as_many, magnitudes
from ..model.layers import NestedLayer
from ..model.nested_model import NestedModel
from .search import Search

STARTS = ("random", "magnitude")


@dataclass(frozen=True, slots=True)
class RigL:
    """Each update drops a share, drop / 2 · (1 + cos(π · t / T)), of each layer's kept blocks by magnitude.

    The same number of blocks grow where the gradient is largest; they start from zero. The gradient of a dropped block
    is that of a kept block of value zero. Gather groups cannot keep every choice, so they rank by scores, survivors
    first, then by gradient; a few survivors may be dropped. For pattern channel use Chex.
    """

    start: str = "random"
    """First masks: "random", for an untrained net, or by "magnitude"."""
    drop: float = 0.3
    """Share of kept blocks that the first update drops (alpha in the paper)."""
    end: float = 0.75
    """Progress of the search after which masks do not change (T)."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        require_one_of(self, "start", STARTS)
        require_share(self, "drop")
        require_share(self, "end")

    @property
    def from_scratch(self) -> bool:
        """Whether the first masks are random."""
        return self.start == "random"

    def search(self, net: NestedModel, level: int, density: float) -> Search:
        """A search by RigL. Raises TrainingError for pattern channel."""
        if any(layer.layout.whole_channels for layer in net.nested_layers().values()):
            raise TrainingError("RigL moves weights, blocks or gather groups, not channels; for channels use Chex")
        return RigLSearch(net, level, density, self)


class RigLSearch(Search):
    """The search of RigL."""

    def __init__(self, net: NestedModel, level: int, density: float, settings: RigL) -> None:
        super().__init__(net, level, density)
        self._settings = settings
        self._scores: dict[str, NDArray[np.float64]] | None = None

    def begin(self) -> None:
        """Set random masks, or masks by magnitude."""
        if self._settings.start == "magnitude":
            return super().begin()
        scores = {layer.name: magnitudes(layer) for layer in self.sparse_layers()}
        for layer in self.sparse_layers():  # a new order of the same values, so that a global budget's counts stay
            flat = scores[layer.name].reshape(-1)
            free = np.flatnonzero(layer.first_level.cpu().numpy()[: len(scores[layer.name])].reshape(-1) >= self.level)
            flat[free] = flat[free[torch.randperm(free.size).numpy()]]
        self.keep(self.density, scores)

    def before_step(self, progress: float, *, update: bool) -> bool:
        """Set the masks chosen by the last step's gradients, and enable all gradients if this step chooses masks."""
        changed = self._scores is not None
        if self._scores is not None:
            self._grow(self._scores)
            self._scores = None
        if update and 0 < progress < self._settings.end:
            self._set_gradient("all")
        return changed

    def after_backward(self, progress: float, *, update: bool) -> None:
        """Compute the scores by which the next step's masks are chosen."""
        if not (update and 0 < progress < self._settings.end):
            return
        self._set_gradient("kept")
        gradients = [layer.values.grad for layer in self.sparse_layers() if layer.values.grad is not None]
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            return  # float16 overflow: the optimizer skips this step, too
        share = self._settings.drop / 2 * (1 + math.cos(math.pi * progress / self._settings.end))
        self._scores = {layer.name: self._growth_scores(layer, share) for layer in self.sparse_layers()}

    def end(self) -> None:
        """Do nothing: the masks are final."""
        if self._scores is not None:
            self._grow(self._scores)
            self._scores = None

    def state_dict(self) -> dict[str, Any]:
        """Scores for the next step's masks, if the last step computed any."""
        scores = {name: torch.from_numpy(score) for name, score in (self._scores or {}).items()}
        return {"scores": scores}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the scores."""
        self._scores = {name: score.numpy() for name, score in state["scores"].items()} or None

    def _set_gradient(self, gradient: str) -> None:
        for layer in self.net.nested_layers().values():
            layer.gradient = gradient

    def _growth_scores(self, layer: NestedLayer, share: float) -> NDArray[np.float64]:
        """(G, K) scores: survivors between 1 and 2, by magnitude; all others below 1, by gradient.

        A block dropped in this update may grow again if its gradient is among the largest, as in the paper.
        """
        gradient = layer.values.grad if layer.values.grad is not None else torch.zeros_like(layer.values)
        magnitude, growth = magnitudes(layer), magnitudes(layer, gradient)
        first_level = layer.first_level.cpu().numpy()[: len(magnitude)]
        kept = np.flatnonzero(first_level.reshape(-1) == self.level)
        weakest_first = kept[np.argsort(magnitude.reshape(-1)[kept], kind="stable")]
        survivors = weakest_first[round(share * kept.size) :]
        scores = growth / (growth.max() + np.finfo(np.float64).tiny) / 2
        scores.reshape(-1)[survivors] = 1 + magnitude.reshape(-1)[survivors] / (magnitude.max() + 1)
        return np.asarray(scores)

    @torch.no_grad()
    def _grow(self, scores: Mapping[str, NDArray[np.float64]]) -> None:
        """Keep the best blocks of each layer, as many as now; new weights start from zero."""
        layers = self.net.nested_layers().values()
        for layer in self.sparse_layers():
            before = layer.mask(self.level)
            keep_as_many(layer, self.level, scores[layer.name])
            for other in layers:
                if other is not layer and other.values is layer.values:
                    other.first_level.copy_(layer.first_level)
            layer.values[layer.mask(self.level) & ~before] = 0
