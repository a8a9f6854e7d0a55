"""GaP: scheduled grow-and-prune, with one part of the layers dense at a time (arXiv:2106.09857)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch

from nested_sparse.errors import TrainingError

from ..checked import require, require_count, require_one_of
from ..distributed import average, copy_from, copy_tensors, rank, world_size
from ..model.choose import choose_masks, magnitudes
from ..model.layers import NestedLayer, unique_weights
from ..model.nested_model import NestedModel
from .search import Scores, Search

STARTS = ("magnitude", "random")
ROUNDING = 1e-9
"""Rounding error of progress, by which a step's first batch may be early."""


@dataclass(frozen=True, slots=True)
class Gap:
    """One part after another becomes dense, trains, and is pruned by magnitude; all other parts stay at the target.

    The layers, in the order of the model, are divided into parts of about equally many weights. A search has rounds ×
    partitions steps of equal length. Each step starts with a new optimizer and a new cycle of the learning rate. No
    dense model is needed.
    """

    partitions: int = 4
    """Number of parts."""
    rounds: int = 1
    """Number of times that each part is dense; with `parallel`, in each process."""
    parallel: bool = False
    """P-GaP: each of several processes has its own dense part and trains separately on its batches; at the end of a
    step the dense parts are combined. With a single process it has no effect."""
    start: str = "magnitude"
    """Masks of the first step outside the dense part: by "magnitude", for a trained net, or "random", for an untrained
    one, as in the paper."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        require_count(self, "partitions", 1)
        require_count(self, "rounds", 1)
        require(self, "parallel", isinstance(self.parallel, bool), "true or false")
        require_one_of(self, "start", STARTS)

    @property
    def from_scratch(self) -> bool:
        """Whether the first masks are random, so that the net need not be trained."""
        return self.start == "random"

    def search(self, net: NestedModel, level: int, density: float) -> Search:
        """A search in steps. Raises TrainingError: more parts than layers, or more processes than parts."""
        return GapSearch(net, level, density, self)


class GapSearch(Search):
    """The search of Gap. A part is pruned tensor by tensor, to the number of blocks that each layer had at the start.

    A new ranking of all layers would also change the masks of parts that did not grow. So the counts that a budget
    "global" finds at the start, by the magnitudes then, hold for the whole search. With start="random" these are the
    initial magnitudes, which mean little: choose another budget.

    Dropped weights start from zero when their part grows. At the first step nothing was dropped yet, so no weight is
    set to zero. A pruned weight keeps its trained value, for the levels above.

    Under "channel" all layers are pruned at the end of a step, because other parts read the dropped channels.
    """

    def __init__(self, net: NestedModel, level: int, density: float, settings: Gap) -> None:
        super().__init__(net, level, density)
        together = world_size() if settings.parallel else 1
        weights = unique_weights(layer for layer in net.nested_layers().values() if not layer.dense)
        require(
            settings, "partitions", settings.partitions <= len(weights), f"at most {len(weights)}, a layer for each"
        )
        least = f"at least one for each of the {together} processes that train together"
        require(settings, "partitions", settings.partitions >= together, least)
        self.parts = [with_sharers(net, part) for part in cut(weights, settings.partitions)]
        self.averages = together == 1
        self._together, self._own = together, rank() if settings.parallel else 0
        self._random = settings.start == "random"
        self._steps = settings.rounds * settings.partitions
        self._step = 0
        self._counts: Mapping[str, Sequence[int]] = {}

    def begin(self) -> None:
        """Prune all parts to the target, except the first one, which stays dense."""
        layers = [layer for part in self.parts for layer in part]
        self._counts = self._prune(layers)
        if self._random:
            self._prune(layers, random_scores(layers))
        copy_from(0, self.net)
        self._step = 0
        make_whole(self._part(self._own), self.level)

    def before_step(self, progress: float, *, update: bool) -> bool:
        """Go to the next part when its step begins, at any value of `update`."""
        step, _ = self._place(progress)
        if step == self._step:
            return False
        self._require_no_gap(step)
        self._finish_step()
        self._step = step
        grow(self._part(self._own), self.level)
        return True

    def lr_progress(self, progress: float) -> float:
        """Progress within the step."""
        return self._place(progress)[1]

    def end(self) -> None:
        """Prune the part that was dense last."""
        self._require_no_gap(self._steps)
        self._finish_step()

    def state_dict(self) -> dict[str, Any]:
        """The step, and the number of blocks that each layer keeps."""
        return {"step": self._step, "counts": {name: list(counts) for name, counts in self._counts.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue within the step; the net's masks show the dense part."""
        self._step, self._counts = state["step"], state["counts"]

    def _place(self, progress: float) -> tuple[int, float]:
        """The step, and the progress within it, in [0, 1)."""
        place = progress * self._steps
        step = math.floor(place + ROUNDING)
        return step, max(0.0, place - step)

    def _part(self, process: int) -> list[NestedLayer]:
        """The part that is dense now in process `process`."""
        return self.parts[(self._step + process) % len(self.parts)]

    def _require_no_gap(self, step: int) -> None:
        if step > self._step + 1:
            raise TrainingError(
                f"search {self.level}: Gap has {self._steps} steps (rounds × partitions), but there was no batch for "
                f"step {self._step + 2}; raise TrainConfig.search_epochs, or lower rounds or partitions"
            )

    def _finish_step(self) -> None:
        dense = [self._part(process) for process in range(self._together)]
        if self._together > 1:
            merge(self.net, dense)
        self._prune([layer for part in dense for layer in part])
        if self._together > 1:
            copy_from(0, self.net)  # it differs only if machines round sums of magnitudes differently

    def _prune(self, layers: Iterable[NestedLayer], scores: Scores | None = None) -> Mapping[str, Sequence[int]]:
        """Keep the best blocks of `layers` at the target; the weights of lower levels stay.

        If layers of several parts share channels, the masks of all layers are chosen again.
        """
        if self.net.coupling is not None:
            layers = self.net.nested_layers().values()
        densities, counts = (*self.net.densities[: self.level], self.density), self._counts or None
        return choose_masks(layers, self.net.budget, densities, frozen_levels=self.level, scores=scores, counts=counts)


def cut(layers: Sequence[NestedLayer], parts: int) -> list[list[NestedLayer]]:
    """`layers` in contiguous, non-empty parts of about equally many weights: with the least sum of squares."""
    ends = [0, *accumulate(layer.values.numel() for layer in layers)]
    best: dict[int, tuple[int, list[int]]] = {0: (0, [0])}  # number of layers: least cost, and the cuts
    for taken in range(1, parts + 1):
        best = {
            end: min(
                (cost + (ends[end] - ends[start]) ** 2, [*cuts, end])
                for start, (cost, cuts) in best.items()
                if start < end
            )
            for end in range(taken, len(layers) + 1)
        }
    cuts = best[len(layers)][1]
    return [list(layers[start:end]) for start, end in pairwise(cuts)]


def with_sharers(net: NestedModel, layers: Iterable[NestedLayer]) -> list[NestedLayer]:
    """`layers`, and all layers that share a weight with one of them."""
    weights = {id(layer.values) for layer in layers}
    return [layer for layer in net.nested_layers().values() if id(layer.values) in weights and not layer.dense]


@torch.no_grad()
def grow(part: Iterable[NestedLayer], level: int) -> None:
    """Make a part dense at `level`. Its dropped weights start from zero, unless they were never trained."""
    for layer in part:
        if layer.values.requires_grad:
            layer.values.masked_fill_(~layer.mask(level), 0)
    make_whole(part, level)


def make_whole(part: Iterable[NestedLayer], level: int) -> None:
    """Let `level` keep all weights of the part; the masks of lower levels stay."""
    for layer in part:
        layer.first_level.clamp_(max=level)


def random_scores(layers: Iterable[NestedLayer]) -> Scores:
    """Random scores in (0, 1] for every block, from torch's generator."""
    return {layer.name: (1 - torch.rand(magnitudes(layer).shape).double()).numpy() for layer in unique_weights(layers)}


@torch.no_grad()
def merge(net: NestedModel, dense: Sequence[Iterable[NestedLayer]]) -> None:
    """Combine the nets of the processes into one. dense: for each process, the layers that were dense in it.

    Weights and biases of a dense layer come from its process. Everything else (norms and their statistics, layers that
    were dense nowhere) becomes the mean over the processes. Values that are equal everywhere stay, bit for bit.
    """
    grown = {
        id(tensor): (process, tensor)
        for process, part in enumerate(dense)
        for layer in part
        for tensor in (layer.values, layer.biases)
        if tensor is not None
    }
    for source in range(len(dense)):
        copy_tensors(source, [tensor for process, tensor in grown.values() if process == source])
    others = [tensor for tensor in (*net.parameters(), *net.buffers()) if id(tensor) not in grown]
    average([tensor for tensor in others if tensor.is_floating_point()])
