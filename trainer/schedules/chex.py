"""CHEX: channel exploration, which drops and regrows channels while the network trains (arXiv:2203.15794)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nested_sparse.coupled import (
    ChannelGroup,
    channel_counts,
    channel_importance,
    channel_levels,
    groups_of,
    present_levels,
    ranking,
)
from nested_sparse.errors import TrainingError

from ..checked import require_count, require_share
from ..distributed import mean_over_processes, rank, world_size
from ..model.choose import coupled_weights, magnitudes
from ..model.layers import unique_weights
from ..model.nested_model import NestedModel
from .channel_memory import ChannelMemory
from .column_subset import leverage_scores, residual_norms
from .search import Search

Levels = Mapping[ChannelGroup, NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Chex:
    """Channel exploration, from an untrained net, for the pattern "channel".

    Every update keeps the channels with the highest leverage scores, and draws some of the others, which return with
    the values that they had when dropped, biases and norms included. The share of returning channels falls as a cosine.
    With budget "global", one threshold on the norms' scales, |γ|, gives the number of channels that each group keeps.
    """

    regrow: float = 0.3
    """Share of all weights that the first masks keep in addition to the target."""
    end: float = 0.72
    """Progress of the search after which only the target is kept and masks do not change; the paper's 180 of 250
    epochs."""
    updates: int = 90
    """Number of updates until `end`, at equal distances; fewer if TrainConfig.masks_per_epoch allows fewer."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        require_share(self, "regrow")
        require_share(self, "end")
        require_count(self, "updates", 1)

    @property
    def from_scratch(self) -> bool:
        """True: the search needs no trained net."""
        return True

    def search(self, net: NestedModel, level: int, density: float) -> Search:
        """A search that explores channels. Raises TrainingError when the channels of a layer are not coupled."""
        return ChexSearch(net, level, density, self)


class ChexSearch(Search):
    """The search of Chex."""

    def __init__(self, net: NestedModel, level: int, density: float, settings: Chex) -> None:
        super().__init__(net, level, density)
        _check_coupled(net)
        self._settings = settings
        self._layers = [layer for layer in net.nested_layers().values() if not layer.dense]
        self._weights = coupled_weights(unique_weights(self._layers))
        self._groups = groups_of(self._weights)
        self._memory = ChannelMemory(net, level, self._groups)
        self._updates, self._over = 0, False

    def begin(self) -> None:
        """Keep the target and the channels to regrow, by magnitude."""
        self._memory.remember({group: np.ones(group.channels, np.bool_) for group in self._groups})
        self.keep(min(1.0, self.density + self._settings.regrow))

    def before_step(self, progress: float, *, update: bool) -> bool:
        """Explore when an update is due; at `end` drop all channels beyond the target."""
        if not update or self._over:
            return False
        if progress >= self._settings.end:
            self.end()
            return True
        due = int(progress / self._settings.end * self._settings.updates + 1e-9)  # 0.6 / 0.8 * 4 is a little below 3
        if due > self._updates:
            self._updates = due
            self._explore(regrow_share(self._settings.regrow, progress / self._settings.end))
            return True
        return False

    def end(self) -> None:
        """Keep only the target, unless this is done already."""
        if not self._over:
            self._over = True
            self._explore(0.0)

    def state_dict(self) -> dict[str, Any]:
        """The number of updates, and the saved values of dropped channels."""
        return {"updates": self._updates, "over": self._over, "memory": self._memory.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self._updates, self._over = state["updates"], state["over"]
        self._memory.load(state["memory"])

    @torch.no_grad()
    def _explore(self, share: float) -> None:
        """Keep the target by leverage, and draw a further `share` of all weights from the rest."""
        first_levels = {layer.name: layer.first_level.cpu().numpy() for layer in self._layers}
        present = present_levels(self._weights, first_levels)
        before = {group: present[group] <= self.level for group in self._groups}
        self._memory.remember(before)
        levels = self._explored(present, share)
        for weight, layer in zip(coupled_weights(self._layers), self._layers, strict=True):
            layer.first_level.copy_(torch.from_numpy(weight.first_level(levels)))
        self._memory.restore({group: (levels[group] <= self.level) & ~before[group] for group in self._groups})

    def _explored(self, present: Levels, share: float) -> Levels:
        """(C,) first level of every channel; frozen channels keep theirs."""
        frozen, importance = self.net.densities[: self.level], self._importance()
        target, wanted = (
            channel_counts(
                self._weights,
                self.net.budget,
                (*frozen, density),
                importance,
                present=present,
                frozen_levels=self.level,
            )
            for density in (self.density, min(1.0, self.density + share))
        )
        active = {layer.name: _columns(layer.masked_weight(self.level)) for layer in self._layers}
        levels = {}
        for group in self._groups:
            keep, more = target[group][-1], wanted[group][-1] - target[group][-1]
            order = ranking(self._leverage(group, active, keep), present[group], self.level)
            if more:
                order = np.concatenate([order[:keep], self._drawn(group, order[:keep], order[keep:])])
            levels[group] = channel_levels(order, [*target[group][:-1], keep + more])
        return levels

    def _leverage(
        self, group: ChannelGroup, active: Mapping[str, NDArray[np.float64]], keep: int
    ) -> NDArray[np.float64]:
        """(C,) scores, summed over the sparse layers that write the channels; if there are none, that read them."""
        written = [leverage_scores(active[name], keep) for name in self._writers(group)]
        return sum(written, np.zeros(group.channels)) if written else self._importance_of_weights()[group]

    def _drawn(self, group: ChannelGroup, kept: NDArray[np.int64], rest: NDArray[np.int64]) -> NDArray[np.int64]:
        """`rest` in drawn order. Chances follow the residual of the weights' last values after projection on `kept`."""
        norms = np.zeros(rest.size)
        for layer in self._layers:
            if layer.name in self._writers(group):
                matrix = _columns(layer.values)
                norms += residual_norms(matrix[:, rest], matrix[:, kept])
        return np.asarray(rest[drawn_order(norms)])

    def _writers(self, group: ChannelGroup) -> list[str]:
        return [weight.name for weight in self._weights if weight.writes == group]

    def _importance(self) -> dict[ChannelGroup, NDArray[np.float64]]:
        """(C,) the mean |γ| of each group's norms. Without norms: magnitudes over their mean, because γ starts at 1."""
        return {
            group: _mean_scale(self.net, self.level, group) if group.norms else sums / sums.mean()
            for group, sums in self._importance_of_weights().items()
        }

    def _importance_of_weights(self) -> dict[ChannelGroup, NDArray[np.float64]]:
        return channel_importance(self._weights, {layer.name: magnitudes(layer) for layer in self._layers})


def regrow_share(first: float, progress: float) -> float:
    """Share of weights that return: `first` at progress 0, falling as a cosine to 0 at progress 1."""
    return first * (1 + math.cos(math.pi * progress)) / 2


def drawn_order(logits: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices in the order of a draw without replacement; the softmax of (M,) `logits` gives the chances.

    The order is that of the logits with Gumbel noise, largest first. The noise comes from torch's generator, in the
    first process if several train one net.
    """
    uniform = torch.rand(logits.size) if rank() == 0 else 0 * torch.rand(logits.size)
    uniform = (mean_over_processes(uniform) * world_size()).double().clamp_min(1e-12)
    return np.argsort(-(logits - torch.log(-torch.log(uniform)).numpy()), kind="stable")


def _check_coupled(net: NestedModel) -> None:
    """Raise TrainingError unless every sparse layer is in a group of channels."""
    if net.coupling is None:
        raise TrainingError(f"Chex explores channels; nest the model with pattern='channel', got {net.pattern!r}")
    sparse = {name for name, layer in net.nested_layers().items() if not layer.dense}
    alone = {name: reason for name, reason in net.coupling.alone.items() if name in sparse}
    if alone:
        name, reason = next(iter(alone.items()))
        raise TrainingError(
            f"Chex must know the layers that share channels, but does not of {len(alone)}, {name!r} among them: "
            f"{reason}; name them in keep_dense, or take another schedule"
        )


def _columns(weight: Tensor) -> NDArray[np.float64]:
    """(fan-in, O) float64 of a weight (O, ...)."""
    return np.asarray(weight.detach().flatten(1).double().cpu().numpy().T)


def _mean_scale(net: NestedModel, level: int, group: ChannelGroup) -> NDArray[np.float64]:
    norms = [net.level_norms()[name].norms[level] for name in group.norms]
    scales = [norm.weight.detach().abs().double().cpu().numpy() for norm in norms if isinstance(norm.weight, Tensor)]
    if not scales:  # without affine, γ is 1
        return np.ones(group.channels)
    return np.asarray(np.mean([scale.reshape(group.channels, -1).mean(axis=1) for scale in scales], axis=0))
