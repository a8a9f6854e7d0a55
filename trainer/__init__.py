"""How a nested model is made: nesting, training, export. The one folder that imports torch."""

from nested_sparse.trainer.config import GrowConfig
from nested_sparse.trainer.data import Batches, LabelledImages, load_digits_images, load_idx
from nested_sparse.trainer.evaluate import accuracy_per_level
from nested_sparse.trainer.export import export
from nested_sparse.trainer.grow import freeze_then_grow
from nested_sparse.trainer.nested_model import NestedModel, nest
from nested_sparse.trainer.progress import EpochReport, ProgressBar
from nested_sparse.trainer.recalibrate import recalibrate

__all__ = [
    "Batches",
    "EpochReport",
    "GrowConfig",
    "LabelledImages",
    "NestedModel",
    "ProgressBar",
    "accuracy_per_level",
    "export",
    "freeze_then_grow",
    "load_digits_images",
    "load_idx",
    "nest",
    "recalibrate",
]
