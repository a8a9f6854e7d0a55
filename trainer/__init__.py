"""How a nested model is made: nesting, training, export. The one folder that imports torch."""

from nested_sparse.trainer.config import TrainConfig
from nested_sparse.trainer.data import Batches, LabelledImages, load_digits_images, load_idx
from nested_sparse.trainer.distributed import start_processes
from nested_sparse.trainer.evaluate import accuracy_per_level
from nested_sparse.trainer.export import export
from nested_sparse.trainer.nested_model import NestedModel, nest
from nested_sparse.trainer.nestings import FreezeThenGrow, Joint, JointThenGrow
from nested_sparse.trainer.post_training import nest_pretrained
from nested_sparse.trainer.progress import EpochReport, ProgressBar
from nested_sparse.trainer.recalibrate import recalibrate
from nested_sparse.trainer.reroute import measure_reroutes
from nested_sparse.trainer.schedules import Admm, Chex, Gap, Gradual, OneShot, RigL
from nested_sparse.trainer.train import train

__all__ = [
    "Admm",
    "Batches",
    "Chex",
    "EpochReport",
    "FreezeThenGrow",
    "Gap",
    "Gradual",
    "Joint",
    "JointThenGrow",
    "LabelledImages",
    "NestedModel",
    "OneShot",
    "ProgressBar",
    "RigL",
    "TrainConfig",
    "accuracy_per_level",
    "export",
    "load_digits_images",
    "load_idx",
    "measure_reroutes",
    "nest",
    "nest_pretrained",
    "recalibrate",
    "start_processes",
    "train",
]
