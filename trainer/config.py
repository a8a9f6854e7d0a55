"""GrowConfig: how freeze-then-grow trains."""

from __future__ import annotations

from dataclasses import dataclass

from nested_sparse.errors import TrainingError

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "one_cycle")
RING_STARTS = ("dense", "zero")


@dataclass(frozen=True, slots=True)
class GrowConfig:
    """Settings of `freeze_then_grow`, checked when made. Raises TrainingError.

    The distillation defaults suit classifiers: outputs are logits with the classes in dimension 1. For other tasks set
    distill_weight=0.
    """

    dense_epochs: int = 4
    """Epochs with all weights, before any is dropped; 0 for a model that is trained already."""
    epochs_per_level: int | tuple[int, ...] = 4
    """Epochs of each level; a tuple gives each level its own, the sparsest first."""
    lr: float = 0.05
    """Peak learning rate of every phase."""
    optimizer: str = "sgd"
    """"sgd" (Nesterov momentum) or "adamw"."""
    momentum: float = 0.9
    """Of "sgd"; "adamw" uses it as its first beta."""
    weight_decay: float = 5e-4
    """For weights; biases and norms have none."""
    schedule: str = "cosine"
    """Learning rate within a phase: "cosine" from the peak to 0, or "one_cycle" up over 30 %, then cosine to 0."""
    gradual_fraction: float = 0.5
    """Part of level 0's epochs in which its density falls from 1 to the target; 0 drops everything at once."""
    masks_per_epoch: int = 4
    """How often an epoch of the gradual part chooses masks anew."""
    ring_start: str = "dense"
    """What a level's new weights start from: "dense", the values they had when dropped, or "zero", so that the level
    starts as the one below."""
    distill_weight: float = 0.5
    """Share of the loss that asks a level for the dense model's soft labels; 0 is off."""
    distill_temperature: float = 4.0
    """Softens both sides' labels (arXiv:1503.02531)."""
    recalibration_samples: int = 2000
    """Samples from which each level's norm statistics are measured at the end."""

    def __post_init__(self) -> None:
        """Check every field."""
        _require(_is_count(self.dense_epochs), "dense_epochs", "a whole number >= 0", self.dense_epochs)
        each = self.epochs_per_level if isinstance(self.epochs_per_level, tuple) else (self.epochs_per_level,)
        counts = bool(each) and all(_is_count(epochs) for epochs in each)
        _require(counts, "epochs_per_level", "a whole number >= 0, or a tuple of one per level", self.epochs_per_level)
        _require(self.lr > 0, "lr", "above 0", self.lr)
        _require(self.optimizer in OPTIMIZERS, "optimizer", f"one of {OPTIMIZERS}", self.optimizer)
        _require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        _require(self.weight_decay >= 0, "weight_decay", ">= 0", self.weight_decay)
        _require(self.schedule in SCHEDULES, "schedule", f"one of {SCHEDULES}", self.schedule)
        _require(0 <= self.gradual_fraction <= 1, "gradual_fraction", "in [0, 1]", self.gradual_fraction)
        _require(self.masks_per_epoch >= 1, "masks_per_epoch", ">= 1", self.masks_per_epoch)
        _require(self.ring_start in RING_STARTS, "ring_start", f"one of {RING_STARTS}", self.ring_start)
        _require(0 <= self.distill_weight <= 1, "distill_weight", "in [0, 1]", self.distill_weight)
        _require(self.distill_temperature > 0, "distill_temperature", "above 0", self.distill_temperature)
        _require(self.recalibration_samples >= 0, "recalibration_samples", ">= 0", self.recalibration_samples)

    def level_epochs(self, level_count: int) -> tuple[int, ...]:
        """Epochs of each of `level_count` levels. Raises TrainingError if the tuple has another length."""
        if not isinstance(self.epochs_per_level, tuple):
            return (self.epochs_per_level,) * level_count
        expected = f"one per level, {level_count} of them"
        _require(len(self.epochs_per_level) == level_count, "epochs_per_level", expected, self.epochs_per_level)
        return self.epochs_per_level


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _require(holds: bool, field: str, expected: str, got: object) -> None:
    if not holds:
        raise TrainingError(f"GrowConfig.{field}: expected {expected}, got {got!r}")
