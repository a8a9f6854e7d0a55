"""Stage: one part of a run, with its own optimizer and learning rate. The dense and search stages are here, too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nested_sparse.errors import TrainingError

from .batch import run
from .config import TrainConfig
from .distill import Teacher, distillation_loss
from .distributed import agree
from .model.choose import choose_masks, keep_everything
from .model.nested_model import NestedModel
from .model.shuffle import shuffle_rows
from .ring import RingGuard, inherit, trainable
from .schedules.search import Schedule
from .tasks import Task
from .tasks.classification import DEFAULT

LossFunction = Callable[[Any, Any], Tensor]
Backward = Callable[[Tensor], None]


@dataclass(slots=True)
class Work:
    """The objects that all stages of a run share.

    teacher: the caller's; without one, the dense model once it is trained.
    task: finds the logits of soft labels in the outputs, and checks the first batch where its loss is the loss.
    scratch: whether the net is still untrained when the levels begin, so that no dense model can be the teacher.
    """

    net: NestedModel
    config: TrainConfig
    loss_fn: LossFunction
    teacher: Teacher | None = None
    scratch: bool = False
    task: Task = DEFAULT
    checked: bool = False

    @property
    def has_teacher(self) -> bool:
        """Whether sparse levels learn soft labels, now or once the dense model is trained."""
        return bool(self.config.distill_weight) and (self.given_teacher is not None or not self.scratch)

    @property
    def given_teacher(self) -> Teacher | None:
        """The caller's teacher. Where there is one, every level learns its soft labels, the densest too."""
        return self.teacher if self.teacher is not None and self.teacher.given else None

    def soft_weight(self, given: float | None) -> float:
        """Share of soft labels in a sparser level's loss: the nesting's if `given`, else TrainConfig.distill_weight."""
        return self.config.distill_weight if given is None else given

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The loss of the labels. Raises TrainingError unless the loss function returns a tensor of one number."""
        if not self.checked:
            self.checked = True
            if self.loss_fn == self.task.loss:  # another loss may take other targets
                self.task.check(outputs, targets)
        return one_number("loss_fn", self.loss_fn(outputs, targets))

    def taught_loss(self, outputs: Any, inputs: Any, targets: Any) -> Tensor:
        """The loss of a sparse level: of the labels and, with a teacher, of its soft labels."""
        weight = self.config.distill_weight
        soft_labels = self.teacher.soft_labels(inputs) if self.teacher is not None and weight else None
        return self.mixed_loss(outputs, targets, soft_labels, weight)

    def mixed_loss(self, outputs: Any, targets: Any, soft_labels: Tensor | None, weight: float) -> Tensor:
        """The loss of the labels and, where there are `soft_labels`, with the share `weight`, the loss of these."""
        loss = self.loss(outputs, targets)
        if soft_labels is None:
            return loss
        shares = self.task.soft_shares(soft_labels)
        soft_loss = distillation_loss(self.task.logits(outputs), soft_labels, self.config.distill_temperature, shares)
        return (1 - weight) * loss + weight * soft_loss


def one_number(name: str, loss: Any) -> Tensor:
    """Return `loss`. Raises TrainingError unless it is a tensor of one number. name: the function that returned it."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TrainingError(f"{name} returned {got}: expected a tensor of one number, the mean over the batch")
    return loss


class Stage(ABC):
    """One part of a run. name: the stage's name in reports. level: the level that it trains, None for all weights."""

    name: str
    level: int | None = None
    averages: bool = True
    """Whether processes that train together share their gradients."""
    lr_share: float = 1.0
    """The stage's peak learning rate, as a share of TrainConfig.lr."""

    def __init__(self, work: Work, epochs: int) -> None:
        self.work, self.net, self.epochs = work, work.net, epochs
        self.guard: RingGuard | None = None

    def logit_modes(self) -> set[bool]:
        """Train modes in which the model must return logits, for soft labels; the teacher runs in eval mode."""
        return {False, True} if self.epochs and self.work.has_teacher else set()

    @abstractmethod
    def begin(self) -> None:
        """Set net and masks for the start of the stage."""

    def prepare(self) -> None:  # noqa: B027 -- most stages have nothing to prepare
        """Make the net's tensors that only this stage and later ones have; called before a state is loaded."""

    def resume(self, state: Mapping[str, Any]) -> None:  # noqa: B027 -- or to continue from
        """Continue from `state_dict`. The net's tensors are loaded already, and `begin` is not called."""

    def trainable(self) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters with weight decay, and parameters without."""
        return trainable(self.net, self.level or 0)

    def lr_progress(self, progress: float) -> float:
        """Progress within the learning rate's cycle, in [0, 1]. A new cycle starts with a new optimizer."""
        return progress

    def before_step(self, progress: float, *, update: bool) -> bool:
        """Called before each step; returns whether the masks changed. update: whether they may change at this step."""
        return False

    def losses(self, inputs: Any, targets: Any, backward: Backward) -> dict[str, Tensor]:
        """Call `backward` for each loss of the step, and return the losses by level name."""
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

    def end(self) -> None:  # noqa: B027 -- or to do at the end
        """Called once, after the last epoch."""

    def state_dict(self) -> dict[str, Any]:
        """The values that `resume` needs in addition to the net's tensors."""
        return {}


class DenseStage(Stage):
    """Trains all weights without soft labels. The result becomes the teacher, unless one is given."""

    name = "dense"

    def logit_modes(self) -> set[bool]:
        """An empty set: this stage uses no soft labels."""
        return set()

    def begin(self) -> None:
        """Make every level whole, and train with level 0's norms."""
        self.net.set_level(0)
        keep_everything(self.net.nested_layers().values())

    def resume(self, state: Mapping[str, Any]) -> None:
        """Set the level, the only state that is not a tensor of the net."""
        self.net.set_level(0)

    def losses(self, inputs: Any, targets: Any, backward: Backward) -> dict[str, Tensor]:
        """The loss of the labels."""
        loss = self.work.loss(run(self.net, inputs), targets)
        backward(loss)
        return {"dense": loss.detach()}

    def end(self) -> None:
        """Keep a copy of the net as the teacher."""
        if self.work.has_teacher and self.work.given_teacher is None:
            self.work.teacher = Teacher(self.net, self.work.task)


class SearchStage(Stage):
    """A schedule finds the masks of `level`; the weights of lower levels are frozen.

    density: the level's density, or another density, from whose weights all levels are chosen afterwards. last: whether
    no other search follows, so that all levels get their masks at the end.
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
        elif self.net.row_shuffle:  # in the first search all weights are trained and no weight is dropped yet
            shuffle_rows(self.net)
        self.search.begin()
        self._masks_changed()

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue the search."""
        self.net.set_level(self.level or 0)
        self.search.load_state_dict(state)
        self._masks_changed()

    def lr_progress(self, progress: float) -> float:
        """Progress within the search's cycle."""
        return self.search.lr_progress(progress)

    def before_step(self, progress: float, *, update: bool) -> bool:
        """Let the search change masks."""
        changed = self.search.before_step(progress, update=update)
        if changed:
            self._masks_changed()
        return changed

    def losses(self, inputs: Any, targets: Any, backward: Backward) -> dict[str, Tensor]:
        """The level's loss. The search's penalty adds to the gradient but not to the reported loss."""
        loss = self.work.taught_loss(run(self.net, inputs), inputs, targets)
        penalty = self.search.penalty()
        backward(loss if penalty is None else loss + penalty)
        return {str(self.level): loss.detach()}

    def after_backward(self, progress: float, *, update: bool) -> None:
        """Give the search all gradients, and the optimizer only the gradients of kept weights."""
        self.search.after_backward(progress, update=update)
        super().after_backward(progress, update=update)

    def end(self) -> None:
        """Set the final masks of this level and, when no other search follows, of every level above."""
        self.search.end()
        if self._last:  # the found weights rank first, then the dropped weights by their last values
            layers, searched = self.net.nested_layers().values(), (self.level or 0) + 1
            choose_masks(layers, self.net.budget, self.net.densities, frozen_levels=searched)
        agree(self.net)

    def state_dict(self) -> dict[str, Any]:
        """State of the search."""
        return self.search.state_dict()

    def _masks_changed(self) -> None:
        if self.averages:  # the choice may come from a random draw, or from rounding that differs between machines
            agree(self.net)
        self.guard = RingGuard(self.net, self.level or 0)
