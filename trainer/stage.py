"""Stage: one stretch of a run, with its own optimizer and learning rate. Here those that come before the nesting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nested_sparse.errors import TrainingError

from .batch import run
from .config import TrainConfig
from .distill import Teacher, check_logits, distillation_loss
from .distributed import agree
from .model.choose import choose_masks, keep_everything
from .model.nested_model import NestedModel
from .model.shuffle import shuffle_rows
from .ring import RingGuard, inherit, trainable
from .schedules.search import Schedule

LossFunction = Callable[[Any, Any], Tensor]
Backward = Callable[[Tensor], None]


@dataclass(slots=True)
class Work:
    """What all stages of a run work on. teacher: the dense model, once it is trained.

    scratch: whether the net is untrained where the levels begin, so that there is no dense model to learn from.
    """

    net: NestedModel
    config: TrainConfig
    loss_fn: LossFunction
    teacher: Teacher | None = None
    scratch: bool = False

    @property
    def has_teacher(self) -> bool:
        """Whether sparse levels learn soft labels, now or once the dense model is trained."""
        return bool(self.config.distill_weight) and not self.scratch

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The loss of the labels. Raises TrainingError where the loss function returns no tensor of one number."""
        return one_number("loss_fn", self.loss_fn(outputs, targets))

    def taught_loss(self, outputs: Any, inputs: Any, targets: Any) -> Tensor:
        """The loss of a sparse level: of the labels, and of the teacher's soft labels where there is a teacher."""
        loss = self.loss(outputs, targets)
        if self.teacher is None:
            return loss
        weight, soft_labels = self.config.distill_weight, self.teacher.soft_labels(inputs)
        soft_loss = distillation_loss(check_logits(outputs), soft_labels, self.config.distill_temperature)
        return (1 - weight) * loss + weight * soft_loss


def one_number(name: str, loss: Any) -> Tensor:
    """`loss`, if it is a tensor of one number. Raises TrainingError: the function called `name` returned another."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TrainingError(f"{name} returned {got}: expected a tensor of one number, the mean over the batch")
    return loss


class Stage:
    """One stretch of training. `name` is what reports say; `level` is the one that it trains, None for all weights."""

    name: str
    level: int | None = None
    averages: bool = True
    """Whether processes that train together share their gradients."""

    def __init__(self, work: Work, epochs: int) -> None:
        self.work, self.net, self.epochs = work, work.net, epochs
        self.guard: RingGuard | None = None

    def logit_modes(self) -> set[bool]:
        """Train modes in which the model must answer with logits, for soft labels: the teacher is in eval mode."""
        return {False, True} if self.epochs and self.work.has_teacher else set()

    def begin(self) -> None:
        """Bring net and masks to the start of the stage."""
        raise NotImplementedError

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; the net's tensors are loaded already, `begin` is not called."""

    def trainable(self) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters with weight decay, and those without."""
        return trainable(self.net, self.level or 0)

    def lr_progress(self, progress: float) -> float:
        """Where the learning rate stands within its cycle; at a new cycle the optimizer starts anew."""
        return progress

    def before_step(self, progress: float, *, update: bool) -> bool:
        """Called before each step, `update` at those where masks may change; returns whether they did."""
        return False

    def losses(self, inputs: Any, targets: Any, backward: Backward) -> dict[str, Tensor]:
        """Call `backward` for each loss of the step, and return them by the level's name."""
        loss = self.work.taught_loss(run(self.net, inputs), inputs, targets)
        backward(loss)
        return {str(self.level): loss.detach()}

    def after_backward(self, progress: float, *, update: bool) -> None:
        """Called with the gradients of the step, before the optimizer."""
        if self.guard is not None:
            self.guard.mask_gradients()

    def after_step(self) -> None:
        """Called after the optimizer."""
        if self.guard is not None:
            self.guard.restore()

    def end(self) -> None:
        """Called once, after the last epoch."""

    def state_dict(self) -> dict[str, Any]:
        """What `resume` needs beside the net's tensors."""
        return {}


class DenseStage(Stage):
    """All weights, without soft labels. What it leaves is the teacher, unless the net is still untrained."""

    name = "dense"

    def logit_modes(self) -> set[bool]:
        """None: the labels are all that it learns."""
        return set()

    def begin(self) -> None:
        """Every level keeps everything; level 0's norms are trained."""
        self.net.set_level(0)
        keep_everything(self.net.nested_layers().values())

    def resume(self, state: Mapping[str, Any]) -> None:
        """Only the level is not a tensor of the net."""
        self.net.set_level(0)

    def losses(self, inputs: Any, targets: Any, backward: Backward) -> dict[str, Tensor]:
        """The loss of the labels."""
        loss = self.work.loss(run(self.net, inputs), targets)
        backward(loss)
        return {"dense": loss.detach()}

    def end(self) -> None:
        """Keep a copy to learn from."""
        if self.work.has_teacher:
            self.work.teacher = Teacher(self.net)


class SearchStage(Stage):
    """A schedule finds the masks of `level`; what lower levels keep is frozen.

    density: that of the level, or another one whose weights all levels are then chosen from. last: whether no other
    search follows, so that all levels get their masks at the end.
    """

    def __init__(
        self, work: Work, epochs: int, schedule: Schedule, level: int, density: float, *, last: bool = True
    ) -> None:
        super().__init__(work, epochs)
        self.level, self.name, self._last = level, f"search {level}", last
        self.search = schedule.search(work.net, level, density)
        self.averages = self.search.averages

    def begin(self) -> None:
        """Let the search set the first masks."""
        self.net.set_level(self.level or 0)
        if self.level:
            inherit(self.net, self.level)
        elif self.net.row_shuffle:  # the first search: all weights are trained and none is dropped yet
            shuffle_rows(self.net)
        self.search.begin()
        self._masks_changed()

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take up the search."""
        self.net.set_level(self.level or 0)
        self.search.load_state_dict(state)
        self._masks_changed()

    def lr_progress(self, progress: float) -> float:
        """The search's cycles."""
        return self.search.lr_progress(progress)

    def before_step(self, progress: float, *, update: bool) -> bool:
        """Let the search change masks."""
        changed = self.search.before_step(progress, update=update)
        if changed:
            self._masks_changed()
        return changed

    def losses(self, inputs: Any, targets: Any, backward: Backward) -> dict[str, Tensor]:
        """The level's loss; the search's penalty takes part in the gradient and is not reported."""
        loss = self.work.taught_loss(run(self.net, inputs), inputs, targets)
        penalty = self.search.penalty()
        backward(loss if penalty is None else loss + penalty)
        return {str(self.level): loss.detach()}

    def after_backward(self, progress: float, *, update: bool) -> None:
        """The search sees all gradients, the optimizer only those of what is kept."""
        self.search.after_backward(progress, update=update)
        super().after_backward(progress, update=update)

    def end(self) -> None:
        """Final masks: of this level, and, when no other search follows, of every one above."""
        self.search.end()
        if self._last:  # what was found ranks first, then the last values of what was dropped
            layers, searched = self.net.nested_layers().values(), (self.level or 0) + 1
            choose_masks(layers, self.net.budget, self.net.densities, frozen_levels=searched)
        agree(self.net)

    def state_dict(self) -> dict[str, Any]:
        """The search's."""
        return self.search.state_dict()

    def _masks_changed(self) -> None:
        if self.averages:  # what was chosen by a random draw, or by a rounding that differs between machines
            agree(self.net)
        self.guard = RingGuard(self.net, self.level or 0)
