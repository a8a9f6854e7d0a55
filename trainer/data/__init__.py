"""Data sets for training: images and spoken words, with the names that a recipe uses for them."""

from __future__ import annotations

from .images import Batches, LabelledImages, load_digits_images, load_idx
from .speech import LabelledSpectra, load_fsdd
from .training_data import TrainingData

__all__ = [
    "Batches",
    "LabelledImages",
    "LabelledSpectra",
    "TrainingData",
    "load_digits_images",
    "load_fsdd",
    "load_idx",
]
