"""Freeze-then-grow: train the sparsest level, freeze it, grow the next around it, and so on to the densest.

The order of arXiv:2112.10930, with what its code lacks: explicit first levels, norms and biases of each level's own, a
dense start, a gradual first level, soft labels from the dense model, and runs that can be interrupted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nested_sparse.errors import TrainingError
from nested_sparse.trainer.batch import device_of, moved, run
from nested_sparse.trainer.choose import keep_everything
from nested_sparse.trainer.config import GrowConfig
from nested_sparse.trainer.distill import Teacher, distillation_loss
from nested_sparse.trainer.gradual import GradualMasks
from nested_sparse.trainer.nested_model import NestedModel
from nested_sparse.trainer.progress import EpochReport, log_progress
from nested_sparse.trainer.recalibrate import recalibrate
from nested_sparse.trainer.ring import RingGuard, empty_ring, inherit, trainable
from nested_sparse.trainer.schedule import learning_rate
from nested_sparse.trainer.state import check_same_run, load_state, random_state, restore_random_state, save_state

Batch = tuple[Any, Any]
EpochSource = Callable[[int], Iterable[Batch]]
LossFunction = Callable[[Any, Any], Tensor]


def freeze_then_grow(
    net: NestedModel,
    batches: EpochSource,
    loss_fn: LossFunction,
    config: GrowConfig | None = None,
    *,
    state_path: str | Path | None = None,
    on_progress: Callable[[EpochReport], None] = log_progress,
    recalibration_batches: Iterable[Batch] | None = None,
) -> tuple[EpochReport, ...]:
    """Train every level of `net` in place; returns a report per epoch.

    A phase with all weights, then one per level: its masks are the largest magnitudes, and it trains only what it adds
    to the level below (weights, norm, bias), so lower levels stay as they are bit for bit. Then norm statistics are
    measured on `recalibration_batches` (default: `batches(0)`).

    batches: gives the (inputs, targets) of an epoch, numbered from 0 over the whole run; the same for the same number
    if a resumed run is to equal an uninterrupted one. loss_fn: (outputs, targets) to a scalar.
    state_path: written after every epoch; if it exists, the run goes on from there, and a finished run is only loaded.
    Raises TrainingError: no batches, a loss that is not finite, a state file that is damaged or another run's.
    """
    training = net.training
    grow = _Run(net, config or GrowConfig(), None if state_path is None else Path(state_path))
    try:
        grow.train(batches, loss_fn, on_progress)
        grow.finish(batches if recalibration_batches is None else recalibration_batches)
    finally:
        net.train(training)
    return tuple(grow.reports)


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of training with its own optimizer and schedule. level None: all weights."""

    level: int | None
    epochs: int

    @property
    def name(self) -> str:
        """ "dense" or "level l"."""
        return "dense" if self.level is None else f"level {self.level}"


class _Run:
    """A run in progress: where it is, and all it needs to go on from there."""

    def __init__(self, net: NestedModel, config: GrowConfig, state_path: Path | None) -> None:
        self.net, self.config, self.state_path = net, config, state_path
        self.phases = [Phase(None, config.dense_epochs)]
        self.phases += [Phase(level, epochs) for level, epochs in enumerate(config.level_epochs(net.level_count))]
        self.phase_index, self.epoch, self.finished = 0, 0, False
        self.reports: list[EpochReport] = []
        self.teacher: Teacher | None = None
        self.masks = GradualMasks(net, config.gradual_fraction)
        if state_path is not None and state_path.exists():
            self._load(state_path)
        else:
            self._begin_phase()

    @property
    def phase(self) -> Phase:
        return self.phases[self.phase_index]

    def train(self, batches: EpochSource, loss_fn: LossFunction, on_progress: Callable[[EpochReport], None]) -> None:
        """Run all epochs that are left."""
        while not self.finished:
            while self.epoch < self.phase.epochs:
                report = self._train_epoch(batches(len(self.reports)), loss_fn)
                self.epoch += 1
                self.reports.append(report)
                self._save()
                on_progress(report)
            if self.phase_index + 1 == len(self.phases):
                return
            self.phase_index, self.epoch = self.phase_index + 1, 0
            self._begin_phase()

    def finish(self, batches: EpochSource | Iterable[Batch]) -> None:
        """Measure the norm statistics, once."""
        self.net.set_level(-1)
        if self.finished:
            return
        self.masks.choose(1.0)
        if self.config.recalibration_samples and self.net.level_norms():
            measured = batches(0) if callable(batches) else batches
            recalibrate(self.net, measured, samples=self.config.recalibration_samples)
        self.finished = True
        self._save()

    def _begin_phase(self) -> None:
        """Bring net, masks and optimizer to the start of the phase."""
        level = self.phase.level
        self.net.set_level(level or 0)
        if level is None:
            keep_everything(self.net.nested_layers().values())
        elif level == 0:
            self.teacher = Teacher(self.net) if self.config.distill_weight else None
            self.masks.start()
        else:
            self.masks.choose(1.0)
            inherit(self.net, level)
            if self.config.ring_start == "zero":
                empty_ring(self.net, level)
        self._make_optimizer()

    def _make_optimizer(self) -> None:
        level = self.phase.level
        self.guard = None if level is None else RingGuard(self.net, level)
        self.optimizer = make_optimizer(self.config, *trainable(self.net, level or 0))

    def _train_epoch(self, batches: Iterable[Batch], loss_fn: LossFunction) -> EpochReport:
        started = time.perf_counter()
        self.net.train()
        steps = len(batches) if isinstance(batches, Sized) else 0
        interval = max(1, steps // self.config.masks_per_epoch)
        device, losses = device_of(self.net), []
        for step, (inputs, targets) in enumerate(batches):
            progress = (self.epoch + (step / steps if steps else 0)) / self.phase.epochs
            self._adjust(progress, choose=step % interval == 0)
            losses.append(self._step(moved(inputs, device), moved(targets, device), loss_fn))
        if not losses:
            raise TrainingError(f"{self.phase.name}: batches({len(self.reports)}) gave no batch")
        return self._report(float(torch.stack(losses).mean()), time.perf_counter() - started)

    def _adjust(self, progress: float, *, choose: bool) -> None:
        """Set learning rate and, while level 0's density falls, masks."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.schedule, self.config.lr, progress)
        if self.phase.level == 0 and choose and not self.masks.final:
            self.masks.choose(progress)
            self.guard = RingGuard(self.net, 0)

    def _step(self, inputs: Any, targets: Any, loss_fn: LossFunction) -> Tensor:
        outputs = run(self.net, inputs)
        loss = loss_fn(outputs, targets)
        if self.teacher is not None:
            weight, soft_labels = self.config.distill_weight, self.teacher.soft_labels(inputs)
            soft_loss = distillation_loss(outputs, soft_labels, self.config.distill_temperature)
            loss = (1 - weight) * loss + weight * soft_loss
        self.net.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.guard is not None:
            self.guard.mask_gradients()
        self.optimizer.step()
        if self.guard is not None:
            self.guard.restore()
        return loss.detach()

    def _report(self, loss: float, duration_s: float) -> EpochReport:
        if not math.isfinite(loss):
            kept = f"; {self.state_path} holds the epoch before" if self.state_path else ""
            raise TrainingError(f"{self.phase.name}: the loss became {loss}; lower GrowConfig.lr{kept}")
        return EpochReport(
            phase=self.phase.name,
            epoch=self.epoch + 1,
            epochs=self.phase.epochs,
            loss=loss,
            density=self.net.density(self.net.level),
            learning_rate=self.optimizer.param_groups[0]["lr"],
            duration_s=duration_s,
            done_epochs=len(self.reports) + 1,
            total_epochs=sum(phase.epochs for phase in self.phases),
        )

    def _save(self) -> None:
        if self.state_path is None:
            return
        state = {
            "run": fingerprint(self.net, self.config),
            "phase_index": self.phase_index,
            "epoch": self.epoch,
            "finished": self.finished,
            "masks_final": self.masks.final,
            "reports": [dataclasses.asdict(report) for report in self.reports],
            "model": self.net.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": random_state(),
        }
        save_state(self.state_path, state)

    def _load(self, path: Path) -> None:
        state = load_state(path)
        check_same_run(path, fingerprint(self.net, self.config), state["run"])
        if state["teacher"] is not None:
            self.teacher = Teacher(self.net)
            self.teacher.net.load_state_dict(state["teacher"])
        self.net.load_state_dict(state["model"])
        self.phase_index, self.epoch, self.finished = state["phase_index"], state["epoch"], state["finished"]
        self.masks.final = state["masks_final"]
        self.reports = [EpochReport(**report) for report in state["reports"]]
        self.net.set_level(self.phase.level or 0)
        if self.teacher is not None:
            self.teacher.net.set_level(0)
        self._make_optimizer()
        self.optimizer.load_state_dict(state["optimizer"])
        restore_random_state(state["random"])


def make_optimizer(config: GrowConfig, decayed: list[Tensor], plain: list[Tensor]) -> torch.optim.Optimizer:
    """The configured optimizer; weight decay for `decayed` only."""
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))


def fingerprint(net: NestedModel, config: GrowConfig) -> dict[str, str]:
    """What must be equal for a state file to fit: settings, densities, layers and their shapes."""
    layers = {
        name: (tuple(layer.weight.shape), layer.block_rows, layer.dense) for name, layer in net.nested_layers().items()
    }
    settings = {field: str(value) for field, value in dataclasses.asdict(config).items()}
    tensors = str({key: tuple(value.shape) for key, value in net.state_dict().items()})
    return {
        **settings,
        "densities": str(net.densities),
        "pattern": net.pattern,
        "budget": net.budget,
        "layers": hashlib.sha256(f"{layers} {tensors}".encode()).hexdigest()[:16],
    }
