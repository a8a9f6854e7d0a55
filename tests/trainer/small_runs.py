"""Small runs: settings and a run of training that take seconds."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from small_models import small_batches

from nested_sparse.trainer import NestedModel, train
from nested_sparse.trainer.config import TrainConfig
from nested_sparse.trainer.nestings import FreezeThenGrow
from nested_sparse.trainer.progress import EpochReport

QUICK = TrainConfig(dense_epochs=2, search_epochs=1, recalibration_samples=48)
GROW = FreezeThenGrow(epochs_per_level=2)
EPOCHS = 9
"""Epochs of a run with these settings: 2 dense, 1 of the search, 2 for each of three levels."""


def run(net: NestedModel, config: TrainConfig = QUICK, **options: Any) -> tuple[EpochReport, ...]:
    """Train `net` from a fixed seed; returns the reports."""
    torch.manual_seed(11)
    return train(net, small_batches(), F.cross_entropy, config, **{"nesting": GROW, **options})
