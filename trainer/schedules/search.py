"""Search: the masks of one level, found while the network trains. The base of every schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..model.choose import choose_masks, unique_weights
from ..model.layers import NestedConv, NestedLayer, NestedLinear
from ..model.nested_model import NestedModel

Scores = Mapping[str, NDArray[np.float64]]


class Schedule(Protocol):
    """Settings of a kind of search: a frozen dataclass that can start one."""

    @property
    def from_scratch(self) -> bool:
        """Whether the search expects a net that is not trained yet, so that there is no dense model to learn from."""
        ...

    def search(self, net: NestedModel, level: int, density: float) -> Search:
        """A search for masks of `level` with `density` kept."""
        ...


class Search:
    """How `level` of `net`, which is set to that level, comes to keep `density` of its weights.

    Weights of lower levels are frozen: they stay kept, at their values. What the search drops keeps its last value and
    is not trained. A subclass overrides what it needs; this base chooses the largest magnitudes once, at the start.
    `progress` runs over the search, in [0, 1). `update` is true at the steps where masks may be chosen anew.
    """

    averages: bool = True
    """Whether processes that train together share their gradients; else the search brings their nets together."""

    def __init__(self, net: NestedModel, level: int, density: float) -> None:
        self.net, self.level, self.density = net, level, density

    def begin(self) -> None:
        """Set the masks of the start. Weights of this level that are to start from zero are zeroed here."""
        self.keep(self.density)

    def before_step(self, progress: float, *, update: bool) -> bool:
        """Called before each step; returns whether it changed masks (or zeroed weights)."""
        return False

    def penalty(self) -> Tensor | None:
        """What to add to the loss of this step."""
        return None

    def after_backward(self, progress: float, *, update: bool) -> None:
        """Called with the gradients of the step, before the optimizer; may set masks for the next `before_step`."""

    def lr_progress(self, progress: float) -> float:
        """Where the learning rate stands, in [0, 1]; runs from 0 to 1 once for each cycle of the search."""
        return progress

    def end(self) -> None:
        """Set the final masks: exactly `density`."""
        self.keep(self.density)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values to go on from; masks and weights are saved with the model."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned; `begin` has not been called."""

    def keep(self, density: float, scores: Scores | None = None) -> None:
        """Keep `density` of all weights at this level, the frozen ones included, by `scores` (default: magnitudes).

        scores: layer name to (G, K), higher is better; layers left out are ranked by magnitude.
        """
        densities = (*self.net.densities[: self.level], density)
        layers = self.net.nested_layers().values()
        choose_masks(layers, self.net.budget, densities, frozen_levels=self.level, scores=scores)

    @torch.no_grad()
    def keep_all(self) -> None:
        """Keep every weight at this level, those too that the pattern could not keep together; frozen ones stay so."""
        for layer in self.net.nested_layers().values():  # not one per weight: each layer has masks of its own
            if not layer.dense:
                layer.first_level.clamp_(max=self.level)

    def sparse_layers(self) -> list[NestedConv | NestedLinear]:
        """One layer for each weight that has something to drop."""
        return [layer for layer in unique_weights(self.net.nested_layers().values()) if not layer.dense]

    def free(self, layer: NestedLayer) -> Tensor:
        """Bool, the weight's shape: what no frozen level keeps."""
        return ~layer.mask(self.level - 1) if self.level else torch.ones_like(layer.values, dtype=torch.bool)
