"""Interleaved: one annealing of the learning rate for all levels, of which each step trains one. The method is ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nested_sparse.errors import TrainingError

from ..batch import run
from ..checked import is_number, require, require_count, require_share
from ..distributed import agree, from_first
from ..model.choose import choose_masks, keep_everything
from ..model.shuffle import shuffle_rows
from ..ring import RingGuard, inherit, trainable_jointly
from ..schedules import Gradual, OneShot
from ..schedules.gradual import gradual_density
from ..schedules.search import Schedule
from ..stage import Backward, Stage, Work

SPARSEST_SHARE, DENSEST_SHARE = 1.25, 1.75
"""Default shares of the steps for the sparsest and the densest level, against 1 for each level between: four levels
then have the shares that measured best (docs/results.md)."""
MOST_SHARE = 1e6
TOGETHER = (Gradual, OneShot)
"""Schedules that can find the masks of all levels together."""


@dataclass(frozen=True, slots=True)
class Interleaved:
    """One stage: TrainConfig.dense_epochs with all weights, search_epochs in which the masks of all levels are found
    together, and `epochs` with the final masks, under one fall of the learning rate.

    After the dense part each step trains one level, drawn at random. In the search the densities of all levels fall
    from 1 together, as the schedule says (Gradual or OneShot), so every level's masks are chosen while the weights
    still change.
    """

    epochs: int = 12
    """Epochs with the final masks."""
    shares: tuple[float, ...] = ()
    """Share of the steps that train each level, the sparsest first; by default 1.25 for the sparsest and 1.75 for the
    densest against 1 for each other. They are divided by their sum."""
    soft_weight: float | None = None
    """Share of a sparser level's loss that compares with the densest level's soft labels of the same step; the rest
    uses the labels. None is TrainConfig.distill_weight; 0 is off and saves a forward pass of such a step."""
    inner_gradient: float = 1.0
    """Factor on the gradient that a level gives to the weights of sparser levels; 0 leaves these to the sparser levels
    (gradient masking, arXiv:2203.03324)."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        require_count(self, "epochs")
        shares = self.shares
        fits = isinstance(shares, tuple) and all(is_number(share) and 0 < share <= MOST_SHARE for share in shares)
        require(self, "shares", fits, f"a tuple of numbers above 0, at most {MOST_SHARE:g}, one per level")
        if self.soft_weight is not None:
            require_share(self, "soft_weight")
        require_share(self, "inner_gradient")

    def check_levels(self, level_count: int) -> None:
        """Raise TrainingError if the shares are not for `level_count` levels."""
        fits = len(self.shares) in (0, level_count)
        require(self, "shares", fits, f"one per level, {level_count} of them")

    def level_shares(self, level_count: int) -> Tensor:
        """(L,) the share of the steps that train each level."""
        self.check_levels(level_count)
        between = [1.0] * max(0, level_count - 2)
        shares = torch.tensor(self.shares or (SPARSEST_SHARE, *between, DENSEST_SHARE), dtype=torch.float64)
        shares = shares[-level_count:]  # one level alone is the densest
        return shares / shares.sum()

    def stages(self, work: Work, schedule: Schedule) -> list[Stage]:
        """One stage for the whole of the training. Raises TrainingError for a schedule that finds one level alone."""
        if not isinstance(schedule, TOGETHER):
            raise TrainingError(
                f"schedule: Interleaved finds the masks of all levels together, by magnitude; expected Gradual or "
                f"OneShot, got {type(schedule).__name__}; use it with FreezeThenGrow"
            )
        return [InterleavedStage(work, self, schedule.end if isinstance(schedule, Gradual) else 0.0)]


class InterleavedStage(Stage):
    """Trains all weights, then one level per step. search_end: share of the search after which the densities stay."""

    name = "interleaved"

    def __init__(self, work: Work, settings: Interleaved, search_end: float) -> None:
        dense, search = work.config.dense_epochs, work.config.search_epochs
        super().__init__(work, dense + search + settings.epochs)
        self._settings, self._search_end = settings, search_end
        self._soft_weight = work.soft_weight(settings.soft_weight)
        self._dense_end, self._search_epochs = dense, search
        self._shares = settings.level_shares(work.net.level_count)
        self._levels_began = self._masks_final = False
        self._trained = 0

    def logit_modes(self) -> set[bool]:
        """Train mode, in which the densest level gives the soft labels."""
        return {True} if self.epochs and self._soft_weight else set()

    def begin(self) -> None:
        """Make every level whole; the dense part trains with level 0's norms."""
        keep_everything(self.net.nested_layers().values())
        self.resume({"levels_began": False, "masks_final": False})

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue with the masks that the net has."""
        self._levels_began, self._masks_final = state["levels_began"], state["masks_final"]
        self.net.set_level(-1)
        self.guard = RingGuard(self.net)

    def state_dict(self) -> dict[str, Any]:
        """Whether the levels train already, and whether their masks are final."""
        return {"levels_began": self._levels_began, "masks_final": self._masks_final}

    def trainable(self) -> tuple[list[Tensor], list[Tensor]]:
        """All parameters."""
        return trainable_jointly(self.net)

    def before_step(self, progress: float, *, update: bool) -> bool:
        """Begin the levels after the dense part, and choose masks while the search goes on and once at its end."""
        searched = self._searched(progress)
        if searched < 0 or self._masks_final or not (update or searched >= 1 or not self._levels_began):
            return False
        self._begin_levels()
        self._masks_final = searched >= 1
        self._choose(min(1.0, searched))
        return True

    def losses(self, inputs: Any, targets: Any, backward: Backward) -> dict[str, Tensor]:
        """The loss of the labels in the dense part, then of a level drawn at random."""
        level = self._drawn_level() if self._levels_began else 0
        self._trained = level
        soft_labels = self._soft_labels(inputs, level) if self._levels_began else None
        self.net.set_level(level)
        loss = self.work.mixed_loss(run(self.net, inputs), targets, soft_labels, self._soft_weight)
        backward(loss)
        self.net.set_level(-1)
        return {str(level) if self._levels_began else "dense": loss.detach()}

    def after_backward(self, progress: float, *, update: bool) -> None:
        """Scale the gradients of weights that sparser levels share."""
        factor, level = self._settings.inner_gradient, self._trained
        if factor < 1 and level and self._levels_began:
            for layer in self.net.nested_layers().values():
                gradient = layer.values.grad
                if gradient is not None and not layer.dense:
                    gradient.mul_(torch.where(layer.mask(level - 1), factor, 1.0))
        super().after_backward(progress, update=update)

    def end(self) -> None:
        """Set the masks of all levels, where the search had no step of its own to do so."""
        self._begin_levels()
        if not self._masks_final:
            self._choose(1.0)

    def _searched(self, progress: float) -> float:
        """Finished share of the search: below 0 in the dense part, 1 or more afterwards."""
        epochs = progress * self.epochs - self._dense_end
        if epochs < 0:
            return -1.0
        return epochs / self._search_epochs if self._search_epochs else 1.0

    def _begin_levels(self) -> None:
        """Copy norms and biases of the dense part to every level, once."""
        if not self._levels_began:
            self._levels_began = True
            if self.net.row_shuffle:  # all weights are trained and no weight is dropped yet
                shuffle_rows(self.net)
            for level in range(1, self.net.level_count):
                inherit(self.net, level)

    def _choose(self, searched: float) -> None:
        """Choose the masks of all levels from the present magnitudes; at the end their densities are the net's own."""
        fallen = 1.0 if searched >= self._search_end else searched / self._search_end
        layers = self.net.nested_layers().values()
        if fallen:
            choose_masks(layers, self.net.budget, [gradual_density(each, fallen) for each in self.net.densities])
        else:
            keep_everything(layers)
        agree(self.net)
        self.guard = RingGuard(self.net)

    @torch.no_grad()
    def _soft_labels(self, inputs: Any, level: int) -> Tensor | None:
        """The given teacher's logits; without one, for levels below the densest, the logits of the densest level.

        These are computed with the norms' statistics of this batch.
        """
        if not self._soft_weight:
            return None
        if self.work.given_teacher is not None:
            return self.work.given_teacher.soft_labels(inputs)
        if level == self.net.level_count - 1:
            return None
        self.net.set_level(-1)
        return self.work.task.logits(run(self.net, inputs))

    def _drawn_level(self) -> int:
        """A level, from torch's generator in process 0."""
        return int(from_first(torch.multinomial(self._shares, 1)))
