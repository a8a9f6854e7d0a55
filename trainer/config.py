"""TrainConfig: the settings that all stages of a training run share."""

from __future__ import annotations

from dataclasses import dataclass

from .checked import is_number, require, require_count, require_one_of, require_share
from .learning_rate import LR_SCHEDULES

OPTIMIZERS = ("sgd", "adamw")
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of `train`. Raises TrainingError when a value is out of range.

    The distillation defaults suit classifiers: the outputs are logits with the classes in dimension 1. For other tasks
    set distill_weight=0.
    """

    dense_epochs: int = 4
    """Epochs with all weights, before the first weight is dropped; 0 for a model that is trained already."""
    search_epochs: int = 12
    """Epochs of a search, in which the schedule finds masks."""
    lr: float = 0.05
    """Peak learning rate of every stage."""
    optimizer: str = "sgd"
    """"sgd" (Nesterov momentum) or "adamw"."""
    momentum: float = 0.9
    """Momentum of "sgd"; "adamw" uses it as its first beta."""
    weight_decay: float = 5e-4
    """Weight decay of weights; biases and norms have none."""
    lr_schedule: str = "cosine"
    """Learning rate within a stage: "cosine" falls from the peak to 0; "one_cycle" rises over 30 % first."""
    masks_per_epoch: int = 4
    """Number of times in an epoch that a search may choose new masks."""
    distill_weight: float = 0.5
    """Share of a sparse level's loss that compares with the dense model's soft labels; 0 turns distillation off."""
    distill_temperature: float = 4.0
    """Temperature that softens the labels of both models (arXiv:1503.02531)."""
    int8_epochs: int = 0
    """Epochs at the end in which all levels train together, rounded as in an int8 file (`fine_tune_int8`)."""
    int8_keep_float: tuple[str, ...] = ()
    """Layers that are not rounded then: dotted names or patterns of them, as keep_float of `export`."""
    recalibration_samples: int = 2000
    """Samples on which each level's norm statistics are measured at the end; 0 keeps the running averages."""
    precision: str = "float32"
    """Type of the operations that torch.autocast may run below float32; weights and optimizer stay float32."""

    channels_last: bool = True
    """Whether images lie in memory with their channels last while the net trains, which torch computes faster."""

    def __post_init__(self) -> None:
        """Check every field."""
        require_count(self, "dense_epochs")
        require_count(self, "search_epochs")
        require(self, "lr", is_number(self.lr) and self.lr > 0, "above 0")
        require_one_of(self, "optimizer", OPTIMIZERS)
        require(self, "momentum", is_number(self.momentum) and 0 <= self.momentum < 1, "in [0, 1)")
        require(self, "weight_decay", is_number(self.weight_decay) and self.weight_decay >= 0, ">= 0")
        require_one_of(self, "lr_schedule", LR_SCHEDULES)
        require_count(self, "masks_per_epoch", 1)
        require_share(self, "distill_weight")
        require(
            self, "distill_temperature", is_number(self.distill_temperature) and self.distill_temperature > 0, "above 0"
        )
        require_count(self, "int8_epochs")
        names = self.int8_keep_float
        listed = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
        require(self, "int8_keep_float", listed, "a tuple of layer names")
        require_count(self, "recalibration_samples")
        require_one_of(self, "precision", PRECISIONS)
        require(self, "channels_last", isinstance(self.channels_last, bool), "True or False")
