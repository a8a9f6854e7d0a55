"""Joint: training of several levels in every step, on one set of weights (slimmable networks, arXiv:1812.08928)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nested_sparse.level import resolve_level

from ..batch import run
from ..checked import require, require_count, require_one_of, require_share
from ..distributed import from_first
from ..model.nested_model import NestedModel
from ..ring import RingGuard, inherit, trainable_jointly
from ..schedules.search import Schedule
from ..stage import Backward, DenseStage, SearchStage, Stage, Work

GRADIENTS = ("kept", "ring")


@dataclass(frozen=True, slots=True)
class Joint:
    """The sandwich rule of US-Nets (arXiv:1903.05134, section 3).

    Each step trains the densest level on the labels. It also trains the sparsest and some random levels on the densest
    level's soft labels, through which no gradient flows. The step uses the mean of the losses, so that learning rates
    mean the same as in other methods; US-Nets uses the sum.
    """

    epochs: int = 8
    random_levels: int = 1
    """Number of random levels, beside the densest and the sparsest, in each step."""
    gradient: str = "kept"
    """Weights that a level's loss trains: "kept", all that it keeps, or "ring", only those that it adds to the level
    below (gradient masking, arXiv:2203.03324)."""
    soft_weight: float | None = None
    """Share of a sparse level's loss that compares with the densest level's soft labels; the rest uses the labels. None
    is TrainConfig.distill_weight; 0 is off."""
    search_level: int = 0
    """The level whose density the search finds; -1 is the densest. Levels below keep the largest of its weights, levels
    above add the largest of the weights that it dropped."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        require_count(self, "epochs")
        require_count(self, "random_levels")
        require_one_of(self, "gradient", GRADIENTS)
        if self.soft_weight is not None:
            require_share(self, "soft_weight")
        require_count(self, "search_level", -1)

    def check_levels(self, level_count: int) -> None:
        """Raise TrainingError if the searched level is not one of `level_count` levels."""
        require(self, "search_level", self.search_level < level_count, f"-1 to {level_count - 1}, a level of the net")

    def stages(self, work: Work, schedule: Schedule) -> list[Stage]:
        """The dense stage, a search, then a stage for all levels. Raises LevelError."""
        density = work.net.densities[resolve_level(self.search_level, work.net.level_count)]
        return [
            DenseStage(work, work.config.dense_epochs),
            SearchStage(work, work.config.search_epochs, schedule, 0, density),
            JointStage(work, self),
        ]


class JointStage(Stage):
    """Trains all levels together; weights that no level keeps do not change."""

    name = "joint"

    def __init__(self, work: Work, settings: Joint) -> None:
        super().__init__(work, settings.epochs)
        self._settings, self._soft_weight = settings, work.soft_weight(settings.soft_weight)
        self.level = work.net.level_count - 1

    def begin(self) -> None:
        """Copy the norms and biases of the search to every level."""
        for level in range(1, self.net.level_count):
            inherit(self.net, level)
        self.resume({})

    def resume(self, state: Mapping[str, Any]) -> None:
        """Guard the weights that no level keeps."""
        self.net.set_level(-1)
        self.guard = RingGuard(self.net)

    def logit_modes(self) -> set[bool]:
        """Train mode, in which the densest level gives the soft labels."""
        return {True} if self.epochs and self._soft_weight else set()

    def trainable(self) -> tuple[list[Tensor], list[Tensor]]:
        """All parameters."""
        return trainable_jointly(self.net)

    def losses(self, inputs: Any, targets: Any, backward: Backward) -> dict[str, Tensor]:
        """The loss of the densest level, then of the others with its outputs as soft labels, or with a teacher's."""
        net, losses = self.net, dict[str, Tensor]()
        set_gradient(net, self._settings.gradient)
        try:
            weight, given = self._soft_weight, self.work.given_teacher
            soft_labels = given.soft_labels(inputs) if given is not None and weight else None
            levels = self._drawn_levels()
            for level in levels:
                net.set_level(level)
                outputs = run(net, inputs)
                loss = self.work.mixed_loss(outputs, targets, soft_labels, weight)
                if soft_labels is None and weight:
                    soft_labels = self.work.task.logits(outputs).detach()
                backward(loss / len(levels))
                losses[str(level)] = loss.detach()
        finally:
            set_gradient(net, "kept")
            net.set_level(-1)
        return losses

    def _drawn_levels(self) -> list[int]:
        """The densest, the sparsest, and some random levels, from torch's generator in process 0."""
        last = self.net.level_count - 1
        between = (from_first(torch.randperm(max(0, last - 1)))[: self._settings.random_levels] + 1).tolist()
        return list(dict.fromkeys([last, 0, *between]))


def set_gradient(net: NestedModel, gradient: str) -> None:
    """Set the `gradient` of every layer, one of layers.GRADIENTS."""
    for layer in net.nested_layers().values():
        layer.gradient = gradient
