"""Data sets for training: images and spoken words, with the names that a recipe uses for them."""

from __future__ import annotations

from .datasets import TrainingData
from .images import Batches, LabelledImages, load_digits_images, load_idx
from .speech import LabelledSpectra, load_fsdd

__all__ = [
    "Batches",
    "LabelledImages",
    "LabelledSpectra",
    "TrainingData",
    "load_digits_images",
    "load_fsdd",
    "load_idx",
]
