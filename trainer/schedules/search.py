"""Search: the base of every schedule, which finds the masks of one level while the network trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..model.choose import choose_masks
from ..model.layers import NestedLayer, unique_weights
from ..model.nested_model import NestedModel

Scores = Mapping[str, NDArray[np.float64]]


class Schedule(Protocol):
    """Settings of a kind of search: a frozen dataclass that can start a search."""

    @property
    def from_scratch(self) -> bool:
        """Whether the search expects an untrained net, so that no dense model can be the teacher."""
        ...

    def search(self, net: NestedModel, level: int, density: float) -> Search:
        """A search for masks of `level` with `density` kept."""
        ...


class Search:
    """Search for masks of `level` that keep `density` of the weights of `net`, which is set to that level.

    Weights of lower levels are frozen: they stay kept, with their values. A dropped weight keeps its last value and is
    not trained. This base class chooses the largest magnitudes once, at the start; subclasses override its methods.
    progress: finished part of the search, in [0, 1). update: whether this step may choose new masks.
    """

    averages: bool = True
    """Whether processes that train together share their gradients; if not, the search combines their nets."""

    def __init__(self, net: NestedModel, level: int, density: float) -> None:
        self.net, self.level, self.density = net, level, density

    def begin(self) -> None:
        """Set the first masks, and set weights of this level that start from zero to zero."""
        self.keep(self.density)

    def before_step(self, progress: float, *, update: bool) -> bool:
        """Called before each step; returns whether it changed masks or set weights to zero."""
        return False

    def penalty(self) -> Tensor | None:
        """A term to add to the loss of this step, or None."""
        return None

    def after_backward(self, progress: float, *, update: bool) -> None:
        """Called with the gradients of the step, before the optimizer; may set masks for the next `before_step`."""

    def lr_progress(self, progress: float) -> float:
        """Progress within the learning rate's cycle, in [0, 1]; a search may have several cycles."""
        return progress

    def end(self) -> None:
        """Set the final masks: exactly `density`."""
        self.keep(self.density)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which the search can continue; masks and weights are saved with the model."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state_dict`, in place of `begin`."""

    def keep(self, density: float, scores: Scores | None = None) -> None:
        """Keep `density` of all weights at this level, the frozen ones included, by `scores` (default: magnitudes).

        scores: layer name to (G, K), higher is better; missing layers are ranked by magnitude.
        """
        densities = (*self.net.densities[: self.level], density)
        layers = self.net.nested_layers().values()
        choose_masks(layers, self.net.budget, densities, frozen_levels=self.level, scores=scores)

    @torch.no_grad()
    def keep_all(self) -> None:
        """Keep every weight at this level, even if the pattern could not keep all; frozen weights stay frozen."""
        for (
            layer
        ) in self.net.nested_layers().values():  # all layers: also those that share a weight have their own masks
            if not layer.dense:
                layer.first_level.clamp_(max=self.level)

    def sparse_layers(self) -> list[NestedLayer]:
        """One layer for each weight that may lose blocks."""
        return [layer for layer in unique_weights(self.net.nested_layers().values()) if not layer.dense]

    def free(self, layer: NestedLayer) -> Tensor:
        """Bool, the weight's shape: the weights that no frozen level keeps."""
        return ~layer.mask(self.level - 1) if self.level else torch.ones_like(layer.values, dtype=torch.bool)
