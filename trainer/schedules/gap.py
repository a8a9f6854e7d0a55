"""GaP, grow-and-prune by schedule (arXiv:2106.09857): one part of the layers is dense at a time, the others sparse."""

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
from ..model.choose import AnyNestedLayer, choose_masks, magnitudes, unique_weights
from ..model.nested_model import NestedModel
from .search import Scores, Search

STARTS = ("magnitude", "random")
ROUNDING = 1e-9
"""What a step's first batch may lack of the step's begin, by the rounding of progress."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Part after part grows dense, trains, and is pruned back by magnitude, with all others masked at the target.

    The layers, in the order of the model, are cut into parts of about equally many weights. A search has rounds ×
    partitions steps of equal length; at each the learning rate and the optimizer start anew. No dense model is needed.
    """

    partitions: int = 4
    """Parts."""
    rounds: int = 1
    """How often each part is dense; with `parallel`, in each process."""
    parallel: bool = False
    """P-GaP: where processes train together, each keeps another part dense and trains alone on its batches; at the end
    of a step the dense parts are put together. Alone, a process goes through the parts as without."""
    start: str = "magnitude"
    """Masks of the first step, for all but the part that is dense: "magnitude", of a net that is trained, or "random",
    as in the paper, from scratch."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        require_count(self, "partitions", 1)
        require_count(self, "rounds", 1)
        require(self, "parallel", isinstance(self.parallel, bool), "true or false")
        require_one_of(self, "start", STARTS)

    @property
    def from_scratch(self) -> bool:
        """With random masks there is nothing that a trained net would be needed for."""
        return self.start == "random"

    def search(self, net: NestedModel, level: int, density: float) -> Search:
        """A search in steps. Raises TrainingError: more parts than layers, or more processes than parts."""
        return GapSearch(net, level, density, self)


class GapSearch(Search):
    """See Gap. A part is pruned tensor by tensor, to as many blocks as the budget gave each layer at the start.

    Ranking all layers anew would also change the masks of parts that did not grow: what a budget "global" finds at the
    start, in the magnitudes of then, holds for the whole search (start="random": in those of the initialisation, which
    say little; take another budget).

    What was dropped is zero when its part grows; at the first step nothing was dropped yet, and nothing is zeroed. A
    pruned weight keeps the value it had grown to, for the levels above.

    Under "channel" all layers are pruned at the end of a step, since what a part drops others read.
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
        """All parts at the target, but for the first, which stays as it is."""
        layers = [layer for part in self.parts for layer in part]
        self._counts = self._prune(layers)
        if self._random:
            self._prune(layers, random_scores(layers))
        copy_from(0, self.net)
        self._step = 0
        make_whole(self._part(self._own), self.level)

    def before_step(self, progress: float, *, update: bool) -> bool:
        """Go on to the next part when its time has come, whether or not other searches might `update` then."""
        step, _ = self._place(progress)
        if step == self._step:
            return False
        self._require_no_gap(step)
        self._finish_step()
        self._step = step
        grow(self._part(self._own), self.level)
        return True

    def lr_progress(self, progress: float) -> float:
        """A cycle for each step."""
        return self._place(progress)[1]

    def end(self) -> None:
        """Prune what has grown last."""
        self._require_no_gap(self._steps)
        self._finish_step()

    def state_dict(self) -> dict[str, Any]:
        """The step, and the blocks that each layer is to keep."""
        return {"step": self._step, "counts": {name: list(counts) for name, counts in self._counts.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on within the step; the net's masks show which part is dense."""
        self._step, self._counts = state["step"], state["counts"]

    def _place(self, progress: float) -> tuple[int, float]:
        """The step, and how far it has come, in [0, 1)."""
        place = progress * self._steps
        step = math.floor(place + ROUNDING)
        return step, max(0.0, place - step)

    def _part(self, process: int) -> list[AnyNestedLayer]:
        """The part that is dense now in that process."""
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
            copy_from(0, self.net)  # the same already, unless machines differ in how they round sums of magnitudes

    def _prune(self, layers: Iterable[AnyNestedLayer], scores: Scores | None = None) -> Mapping[str, Sequence[int]]:
        """Keep the best of `layers` at the target; what lower levels keep stays.

        Channels that layers of several parts share go in all of them: then all layers' are chosen anew.
        """
        if self.net.coupling is not None:
            layers = self.net.nested_layers().values()
        densities, counts = (*self.net.densities[: self.level], self.density), self._counts or None
        return choose_masks(layers, self.net.budget, densities, frozen_levels=self.level, scores=scores, counts=counts)


def cut(layers: Sequence[AnyNestedLayer], parts: int) -> list[list[AnyNestedLayer]]:
    """`layers` in contiguous parts, none empty, of about equally many weights: the least sum of squares there is."""
    ends = [0, *accumulate(layer.values.numel() for layer in layers)]
    best: dict[int, tuple[int, list[int]]] = {0: (0, [0])}  # layers taken: cost, and where the cuts are
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


def with_sharers(net: NestedModel, layers: Iterable[AnyNestedLayer]) -> list[AnyNestedLayer]:
    """`layers`, and those that share a weight with one of them."""
    weights = {id(layer.values) for layer in layers}
    return [layer for layer in net.nested_layers().values() if id(layer.values) in weights and not layer.dense]


@torch.no_grad()
def grow(part: Iterable[AnyNestedLayer], level: int) -> None:
    """Make a part dense at `level`: what it had dropped starts from zero, unless it is not trained at all."""
    for layer in part:
        if layer.values.requires_grad:
            layer.values.masked_fill_(~layer.mask(level), 0)
    make_whole(part, level)


def make_whole(part: Iterable[AnyNestedLayer], level: int) -> None:
    """Let `level` keep everything in the part; what lower levels keep stays theirs."""
    for layer in part:
        layer.first_level.clamp_(max=level)


def random_scores(layers: Iterable[AnyNestedLayer]) -> Scores:
    """Scores in (0, 1] for every block, by torch's generator."""
    return {layer.name: (1 - torch.rand(magnitudes(layer).shape).double()).numpy() for layer in unique_weights(layers)}


@torch.no_grad()
def merge(net: NestedModel, dense: Sequence[Iterable[AnyNestedLayer]]) -> None:
    """Make one net of those of the processes, of which process r has grown the layers of `dense[r]`.

    Weights and biases of a grown layer are those of the process that has grown it; all else (norms and their
    statistics, layers that grew nowhere) is the mean over the processes. What all agree on stays, bit for bit.
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
