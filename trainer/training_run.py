"""TrainingRun: the stages of a run, one after the other, and then the norm statistics. It can be resumed."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nested_sparse.errors import TrainingError

from .batch import batch_count, device_of, moved, pairs
from .config import TrainConfig
from .distill import Teacher, check_first_batch
from .distributed import (
    agree,
    average_gradients,
    copy_from,
    gathered,
    mean_over_processes,
    rank,
    require_equal,
    world_size,
)
from .learning_rate import learning_rate
from .memory_format import images_channels_last
from .model.nested_model import NestedModel
from .nestings import Nesting
from .precision import Precision
from .progress import EpochReport
from .recalibrate import recalibrate
from .schedules import Schedule
from .stage import Stage, Work
from .state import check_same_run, load_state, random_state, restore_random_state, save_state

LOGGER = logging.getLogger(__name__)
Batch = tuple[Any, Any]
EpochSource = Callable[[int], Iterable[Batch]]


class TrainingRun:
    """A run in progress: its position (stage and epoch), and everything needed to continue from it.

    settings: the run's fingerprint; a state file of another run is refused.
    """

    def __init__(self, work: Work, stages: list[Stage], settings: Mapping[str, str], state_path: Path | None) -> None:
        self.work, self.net, self.config, self.state_path = work, work.net, work.config, state_path
        self.stages, self.settings = stages, settings
        self.logit_modes = {mode for stage in stages for mode in stage.logit_modes()}
        self.index, self.epoch, self.finished = 0, 0, False
        self.reports: list[EpochReport] = []
        self.precision = Precision(self.config.precision, device_of(self.net))
        found = state_path is not None and state_path.exists()
        require_equal({**self.settings, "state_path": state_path is not None, "a state file at state_path": found})
        copy_from(0, self.net)
        if state_path is not None and found:
            self._load(state_path)
        else:
            self._begin_stage()

    @property
    def stage(self) -> Stage:
        """The present stage."""
        return self.stages[self.index]

    @property
    def total_epochs(self) -> int:
        """Epochs of all stages."""
        return sum(stage.epochs for stage in self.stages)

    def train(self, batches: EpochSource, on_progress: Callable[[EpochReport], None]) -> None:
        """Run all remaining epochs."""
        while not self.finished:
            while self.epoch < self.stage.epochs:
                report = self._train_epoch(batches(len(self.reports)))
                self.epoch += 1
                self.reports.append(report)
                self._save()
                on_progress(report)
            self.stage.end()
            if self.index + 1 == len(self.stages):
                return
            self.index, self.epoch = self.index + 1, 0
            self._begin_stage()

    def finish(self, batches: EpochSource | Iterable[Batch]) -> None:
        """Measure the norm statistics, unless the run was finished before."""
        self.net.set_level(-1)
        if self.finished:
            return
        if self.config.recalibration_samples and self.net.level_norms():
            measured = batches(0) if callable(batches) else pairs(batches, "recalibration_batches")
            recalibrate(self.net, measured, samples=self.config.recalibration_samples)
            copy_from(0, self.net)
        self.finished = True
        self._save()

    def _begin_stage(self) -> None:
        self.stage.begin()
        self._make_optimizer()
        self.precision.agree()

    def _make_optimizer(self) -> None:
        self.parameters = self.stage.trainable()
        self.optimizer = make_optimizer(self.config, *self.parameters)
        self.lr_progress = 0.0

    def _train_epoch(self, batches: Iterable[Batch]) -> EpochReport:
        started = time.perf_counter()
        self.net.train()
        steps = batch_count(batches)
        require_equal({f"batches of epoch {len(self.reports)}": steps})
        interval = max(1, steps // self.config.masks_per_epoch)
        losses: dict[str, list[Tensor]] = {}
        for step, (inputs, targets) in enumerate(pairs(batches, f"batches({len(self.reports)})")):
            progress = (self.epoch + (step / steps if steps else 0)) / self.stage.epochs
            for name, loss in self._step(inputs, targets, progress, update=step % interval == 0).items():
                losses.setdefault(name, []).append(loss)
        if not losses:
            raise TrainingError(f"{self.stage.name}: batches({len(self.reports)}) gave no batch")
        if self.stage.averages:
            agree(self.net)
        means = {name: float(mean_over_processes(torch.stack(values).mean())) for name, values in losses.items()}
        passes = sum(map(len, losses.values())) / (step + 1)
        return self._report(means, passes, time.perf_counter() - started)

    def _step(self, inputs: Any, targets: Any, progress: float, *, update: bool) -> dict[str, Tensor]:
        stage, device = self.stage, device_of(self.net)
        inputs, targets = moved(inputs, device), moved(targets, device)
        if self.config.channels_last:
            inputs = images_channels_last(inputs)
        self._check_first(inputs, targets)
        self._adjust(progress, update=update)
        self.net.zero_grad(set_to_none=True)
        with self.precision.autocast():
            losses = stage.losses(inputs, targets, self.precision.backward)
        if stage.averages:  # before unscaling: an overflow in one process must make all processes skip the step
            average_gradients(parameter for part in self.parameters for parameter in part)
        self.precision.unscale(self.optimizer)
        stage.after_backward(progress, update=update)
        self.precision.step(self.optimizer)
        stage.after_step()
        return losses

    def _check_first(self, inputs: Any, targets: Any) -> None:
        """Check with the first batch that the model returns what later stages need; they may start hours later."""
        modes, self.logit_modes = self.logit_modes, set()
        if modes:
            with self.precision.autocast():
                check_first_batch(self.net, self.work.task, inputs, targets, modes, self.work.given_teacher)

    def _adjust(self, progress: float, *, update: bool) -> None:
        """Set masks and learning rate. A new cycle of the learning rate starts with a new optimizer."""
        guard = self.stage.guard
        if self.stage.before_step(progress, update=update):
            for before_or_after in (guard, self.stage.guard):
                if before_or_after is not None:
                    before_or_after.forget(self.optimizer)
        lr_progress = self.stage.lr_progress(progress)
        if lr_progress < self.lr_progress:
            self._make_optimizer()
        self.lr_progress = lr_progress
        for group in self.optimizer.param_groups:
            peak = self.config.lr * self.stage.lr_share
            group["lr"] = learning_rate(self.config.lr_schedule, peak, lr_progress)

    def _report(self, losses: dict[str, float], passes: float, duration_s: float) -> EpochReport:
        for name, loss in losses.items():
            if not math.isfinite(loss):
                kept = f"; {self.state_path} holds the epoch before" if self.state_path else ""
                sound = all(parameter.isfinite().all() for parameter in self.net.parameters())
                data = (
                    ", or, as the weights are finite, look for NaN, infinity or no target in a batch" if sound else ""
                )
                raise TrainingError(
                    f"{self.stage.name}: the loss of {name} became {loss}; lower TrainConfig.lr{data}{kept}"
                )
        return EpochReport(
            stage=self.stage.name,
            epoch=self.epoch + 1,
            epochs=self.stage.epochs,
            losses=losses,
            density=self.net.density(self.net.level),
            learning_rate=self.optimizer.param_groups[0]["lr"],
            duration_s=duration_s,
            done_epochs=len(self.reports) + 1,
            total_epochs=self.total_epochs,
            passes=passes,
        )

    def _save(self) -> None:
        if self.state_path is None:
            return
        own = gathered(moved(self._own_state(), torch.device("cpu")))
        if rank():
            return
        state = {
            "run": self.settings,
            "index": self.index,
            "epoch": self.epoch,
            "finished": self.finished,
            "reports": [dataclasses.asdict(report) for report in self.reports],
            "processes": own,
            "teacher": self._own_teacher(),
            "stage": self.stage.state_dict(),
            "lr_progress": self.lr_progress,
        }
        save_state(self.state_path, state)

    def _own_teacher(self) -> dict[str, Any] | None:
        """The state of the dense copy of the net; a given teacher is given again when the run is continued."""
        teacher = self.work.teacher
        return None if teacher is None or teacher.given else teacher.net.state_dict()

    def _own_state(self) -> dict[str, Any]:
        """State that may differ between processes; equal state is saved by the first process only."""
        own: dict[str, Any] = {"random": random_state()}
        if rank() == 0 or not self.stage.averages:
            own["model"] = self.net.state_dict()
            own["optimizer"] = self.optimizer.state_dict()
            own["precision"] = self.precision.state_dict()
        return own

    def _load(self, path: Path) -> None:
        state = load_state(path)
        check_same_run(path, self.settings, state["run"])
        if state["teacher"] is not None:
            self.net.set_level(0)  # the copy's level; the stage sets the net's own
            self.work.teacher = Teacher(self.net, self.work.task)
            self.work.teacher.net.load_state_dict(state["teacher"])
        own = {**state["processes"][0], **state["processes"][rank()]}
        self.index, self.epoch, self.finished = state["index"], state["epoch"], state["finished"]
        self.stage.prepare()
        self.net.load_state_dict(own["model"])
        self.reports = [EpochReport(**report) for report in state["reports"]]
        self.stage.resume(state["stage"])
        self._make_optimizer()
        self.optimizer.load_state_dict(own["optimizer"])
        self.lr_progress = state["lr_progress"]
        self.precision.load_state_dict(own["precision"])
        restore_random_state(own["random"])
        if not rank():
            LOGGER.info("resuming from %s: %d of %d epochs are done", path, len(self.reports), self.total_epochs)


def make_optimizer(config: TrainConfig, decayed: list[Tensor], plain: list[Tensor]) -> torch.optim.Optimizer:
    """The configured optimizer; weight decay for `decayed` only."""
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))


def fingerprint(
    net: NestedModel, config: TrainConfig, schedule: Schedule | None = None, nesting: Nesting | None = None
) -> dict[str, str]:
    """Settings, densities, layers and shapes, by name, as text. A state file fits only if all are equal."""
    layers = {
        name: (tuple(layer.values.shape), layer.block_rows, layer.dense) for name, layer in net.nested_layers().items()
    }
    tensors = str({key: tuple(value.shape) for key, value in net.state_dict().items()})
    return {
        **{field: str(value) for field, value in dataclasses.asdict(config).items()},
        "processes": str(world_size()),
        "schedule": str(schedule),
        "nesting": str(nesting),
        "densities": str(net.densities),
        "pattern": net.pattern,
        "budget": repr(net.budget),
        "row_shuffle": str(net.row_shuffle),
        "layers": hashlib.sha256(f"{layers} {tensors}".encode()).hexdigest()[:16],
    }
