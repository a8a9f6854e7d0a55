"""ADMM: pruning with a penalty that pulls weights towards their projection, as in the code of arXiv:2112.10930."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checked import is_number, require, require_count
from ..model.choose import magnitudes
from ..model.nested_model import NestedModel
from .search import Search


@dataclass(frozen=True, slots=True)
class Admm:
    """Adds rho / 2 · ‖W - Z + U‖² to the loss, over the weights that no frozen level keeps; all weights train.

    At the start Z is W projected on the pattern, and U is 0. After each interval Z becomes the projection of W + U,
    then W - Z is added to U, and the learning rate starts a new cycle. At the end W itself is pruned.
    """

    rho: float = 1e-3
    """Weight of the penalty."""
    updates: int = 4
    """Number of intervals in a search."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        require(self, "rho", is_number(self.rho) and self.rho > 0, "above 0")
        require_count(self, "updates", 1)

    @property
    def from_scratch(self) -> bool:
        """False: the search starts from a trained net."""
        return False

    def search(self, net: NestedModel, level: int, density: float) -> Search:
        """A search by ADMM."""
        return AdmmSearch(net, level, density, self)


class AdmmSearch(Search):
    """The search of Admm. z, u: layer name to a tensor of the weight's shape."""

    def __init__(self, net: NestedModel, level: int, density: float, settings: Admm) -> None:
        super().__init__(net, level, density)
        self._settings = settings
        self._interval = 0
        self.z: dict[str, Tensor] = {}
        self.u: dict[str, Tensor] = {}

    @torch.no_grad()
    def begin(self) -> None:
        """Set Z to the projection of W, and U to 0."""
        self.u = {layer.name: torch.zeros_like(layer.values) for layer in self.sparse_layers()}
        self._project()

    def before_step(self, progress: float, *, update: bool) -> bool:
        """Update Z and U at a new interval; the masks stay whole."""
        if int(progress * self._settings.updates) > self._interval:
            self._interval = int(progress * self._settings.updates)
            self._project()
            for layer in self.sparse_layers():
                self.u[layer.name] += layer.values.detach() - self.z[layer.name]
        return False

    def penalty(self) -> Tensor | None:
        """The penalty on the weights that no frozen level keeps; None if all layers are kept dense."""
        terms = []
        for layer in self.sparse_layers():
            apart = layer.values - self.z[layer.name] + self.u[layer.name]
            terms.append((apart * self.free(layer)).square().sum())
        return self._settings.rho / 2 * torch.stack(terms).sum() if terms else None

    def lr_progress(self, progress: float) -> float:
        """Progress within the interval, in [0, 1]."""
        return progress * self._settings.updates % 1.0

    def state_dict(self) -> dict[str, Any]:
        """Z, U, and the interval they belong to."""
        return {"z": self.z, "u": self.u, "interval": self._interval}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore Z, U and the interval."""
        self._interval = state["interval"]
        for layer in self.sparse_layers():
            self.z[layer.name] = state["z"][layer.name].to(layer.values)
            self.u[layer.name] = state["u"][layer.name].to(layer.values)

    @torch.no_grad()
    def _project(self) -> None:
        """Set Z to the part of W + U that the pattern keeps at `density`; then keep all weights again."""
        layers = self.sparse_layers()
        shifted = {layer.name: layer.values + self.u[layer.name] for layer in layers}
        self.keep(self.density, {layer.name: magnitudes(layer, shifted[layer.name]) for layer in layers})
        for layer in layers:
            self.z[layer.name] = torch.where(layer.mask(self.level), shifted[layer.name], 0)
        self.keep_all()
