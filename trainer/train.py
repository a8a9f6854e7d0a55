"""Training: the entries that train a nested model.

Four choices are independent: pattern and budget belong to the net (see `nest`), schedule and nesting are arguments of
`train`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path

from torch import nn

from nested_sparse.argument import shown
from nested_sparse.errors import TrainingError

from .batch import device_of
from .checked import require
from .config import TrainConfig
from .distill import digest, given_teacher
from .entry import entry, passing
from .int8_stage import Int8Stage
from .memory_format import channels_last
from .model.int8 import clear_int8
from .model.nested_model import NestedModel, require_nested
from .nestings import NESTINGS, Nesting, default_nesting
from .onednn import sound_gradients
from .progress import EpochReport, log_progress
from .schedules import Gradual, Schedule
from .stage import LossFunction, Stage, Work
from .state import checked_path
from .tasks import Task
from .tasks.classification import DEFAULT
from .training_run import Batch, EpochSource, TrainingRun, fingerprint


@entry(TrainingError, gradients=True, callbacks=True)
def train(
    net: NestedModel,
    batches: EpochSource,
    loss_fn: LossFunction,
    config: TrainConfig | None = None,
    *,
    schedule: Schedule | None = None,
    nesting: Nesting | None = None,
    state_path: str | Path | None = None,
    on_progress: Callable[[EpochReport], None] = log_progress,
    recalibration_batches: Iterable[Batch] | None = None,
    teacher: nn.Module | None = None,
    task: Task | None = None,
) -> tuple[EpochReport, ...]:
    """Train every level of `net` in place; returns a report per epoch.

    The stages come from `nesting`: training of all weights, searches, in which `schedule` (default: Gradual()) finds
    the masks, and training of the levels. The default is Interleaved(), and FreezeThenGrow() with a schedule that finds
    the masks of one level at a time. At the end the norm statistics of every level are measured on
    `recalibration_batches` (default: `batches(0)`).

    batches: function from an epoch's number, from 0 over the whole run, to its (inputs, targets). A resumed run equals
        an uninterrupted one only if equal numbers give equal batches.
    loss_fn: function of (outputs, targets) to a scalar.
    state_path: file written after every epoch. If it exists, the run continues from it; a finished run is only loaded.
    on_progress: function called after every epoch; its exceptions end the run and leave `train` unchanged.
    teacher: module whose logits are the soft labels, in place of those of the dense model or the densest level. It is
        copied, put into eval mode and onto the net's device, and stays as it is. Every level learns its soft labels,
        the densest too; the dense stage does not. A resumed run needs the same teacher again.
    task: finds the logits of soft labels in the outputs; None for classification, whose outputs are logits.
    With torch.distributed initialised (see `start_processes`), every process calls `train` with its own batches, the
    same number in each. Gradients are averaged, the first process writes the state, and all processes read it.
    Raises TrainingError: no batches; outputs unfit for soft labels (found at the first batch); a loss that is not
    finite; a teacher of other classes; a state file that is damaged, foreign or of another run; processes with
    different arguments.
    """
    require_nested(net, TrainingError)
    config = TrainConfig() if config is None else config
    schedule = Gradual() if schedule is None else schedule
    nesting = NESTINGS[default_nesting(schedule)]() if nesting is None else nesting
    _check_arguments(
        batches=batches,
        loss_fn=loss_fn,
        config=config,
        schedule=schedule,
        nesting=nesting,
        on_progress=on_progress,
        teacher=teacher,
        task=task,
    )
    path = None if state_path is None else checked_path(state_path)
    clear_int8(net)
    task = DEFAULT if task is None else task
    work = Work(net, config, loss_fn, scratch=schedule.from_scratch and not config.dense_epochs, task=task)
    settings = fingerprint(net, config, schedule, nesting) | _named(task)
    if teacher is not None:
        if not config.distill_weight and not getattr(nesting, "soft_weight", None):
            raise TrainingError("teacher: its soft labels have no share in the loss: TrainConfig.distill_weight is 0")
        work.teacher = given_teacher(teacher, task, device_of(net), images_last=config.channels_last)
        settings["teacher"] = digest(teacher)
    stages = nesting.stages(work, schedule)
    stages += [Int8Stage(work)] if config.int8_epochs else []
    return _reports(work, stages, settings, path, batches, on_progress, recalibration_batches)


@entry(TrainingError, gradients=True, callbacks=True)
def fine_tune_int8(
    net: NestedModel,
    batches: EpochSource,
    loss_fn: LossFunction,
    config: TrainConfig | None = None,
    *,
    state_path: str | Path | None = None,
    on_progress: Callable[[EpochReport], None] = log_progress,
    recalibration_batches: Iterable[Batch] | None = None,
    task: Task | None = None,
) -> tuple[EpochReport, ...]:
    """Fine-tune a trained `net` in place, rounded as in an int8 file; returns a report per epoch.

    This is the last stage of `train`, alone: `config.int8_epochs` epochs (default: 1) in which all levels train
    together. Masks stay. Weights and the inputs of layers are rounded in the forward pass; gradients pass where a value
    is inside its range. The ranges of the inputs are observed per level, and `export(..., values="int8")` stores them.
    The learning rate's peak is a tenth of `config.lr`, the rate that trained the net.
    Afterwards `net` goes on computing with rounding: its accuracy is that of the int8 file. Arguments and errors as of
    `train`; with several processes too.
    """
    require_nested(net, TrainingError)
    config = TrainConfig(int8_epochs=1) if config is None else config
    _check_arguments(batches=batches, loss_fn=loss_fn, config=config, on_progress=on_progress, task=task)
    require(config, "int8_epochs", config.int8_epochs > 0, "a whole number >= 1")
    path = None if state_path is None else checked_path(state_path)
    clear_int8(net)
    work = Work(net, config, loss_fn, task=DEFAULT if task is None else task)
    settings = fingerprint(net, config) | _named(work.task)
    return _reports(work, [Int8Stage(work)], settings, path, batches, on_progress, recalibration_batches)


def _named(task: Task) -> dict[str, str]:
    """The task's part of a fingerprint; states of earlier versions have none, and are of the default task."""
    return {} if task == DEFAULT else {"task": str(task)}


def _reports(
    work: Work,
    stages: list[Stage],
    settings: Mapping[str, str],
    path: Path | None,
    batches: EpochSource,
    on_progress: Callable[[EpochReport], None],
    recalibration_batches: Iterable[Batch] | None,
) -> tuple[EpochReport, ...]:
    """Run the stages and measure the norm statistics, and restore the net's mode."""
    training = work.net.training
    try:
        with sound_gradients(work.net), channels_last(work.net) if work.config.channels_last else nullcontext():
            run = TrainingRun(work, stages, settings, path)
            run.train(batches, passing(on_progress))
            run.finish(batches if recalibration_batches is None else recalibration_batches)
    finally:
        work.net.train(training)
    return tuple(run.reports)


def _check_arguments(**given: object) -> None:
    """Raise TrainingError, with the argument's name, for an argument of another kind; before the first batch."""
    for name, value in given.items():
        holds, expected = _ARGUMENTS[name]
        if not holds(value):
            got = f"a {type(value).__name__}" if isinstance(value, list | tuple) else shown(value)  # a list may be long
            raise TrainingError(f"{name}: expected {expected}, got {got}")


def _has(method: str) -> Callable[[object], bool]:
    return lambda given: not isinstance(given, type) and callable(getattr(given, method, None))


_ARGUMENTS: dict[str, tuple[Callable[[object], bool], str]] = {
    "batches": (callable, "a function of the epoch's number, e.g. lambda epoch: loader"),
    "loss_fn": (lambda given: callable(given) and not isinstance(given, type), "a function of (outputs, targets)"),
    "config": (lambda given: isinstance(given, TrainConfig), "a TrainConfig"),
    "schedule": (_has("search"), "an instance of a schedule, e.g. Gradual()"),
    "nesting": (_has("stages"), "an instance of a nesting, e.g. Interleaved()"),
    "teacher": (lambda given: given is None or isinstance(given, nn.Module), "a torch.nn.Module"),
    "task": (lambda given: given is None or isinstance(given, Task), "a task, e.g. Classification()"),
    "on_progress": (callable, "a function of an EpochReport"),
}
