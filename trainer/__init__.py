"""Trainer: nesting, training and export of torch models, in the one folder that needs torch."""

from .config import TrainConfig
from .data import Batches, LabelledImages, TrainingData, load_digits_images, load_idx
from .distributed import start_processes
from .evaluate import accuracy_per_level, file_accuracy, file_metrics, metrics_per_level
from .export.write import export
from .from_onnx import NestedFile, nest_onnx
from .model.nested_model import NestedModel, nest
from .model.predicted import predicted_latency
from .nestings import FreezeThenGrow, Interleaved, Joint, JointThenGrow
from .post_training import LevelReport, level_report, nest_pretrained
from .progress import EpochReport, ProgressBar
from .recalibrate import recalibrate
from .reroute import measure_reroutes
from .schedules import Admm, Chex, Gap, Gradual, OneShot, RigL
from .tasks import Classification, Detection, InstanceSegmentation, Language, Ranking, Segmentation, Task
from .train import fine_tune_int8, train

__all__ = [
    "Admm",
    "Batches",
    "Chex",
    "Classification",
    "Detection",
    "EpochReport",
    "FreezeThenGrow",
    "Gap",
    "Gradual",
    "InstanceSegmentation",
    "Interleaved",
    "Joint",
    "JointThenGrow",
    "LabelledImages",
    "Language",
    "LevelReport",
    "NestedFile",
    "NestedModel",
    "OneShot",
    "ProgressBar",
    "Ranking",
    "RigL",
    "Segmentation",
    "Task",
    "TrainConfig",
    "TrainingData",
    "accuracy_per_level",
    "export",
    "file_accuracy",
    "file_metrics",
    "fine_tune_int8",
    "level_report",
    "load_digits_images",
    "load_idx",
    "measure_reroutes",
    "metrics_per_level",
    "nest",
    "nest_onnx",
    "nest_pretrained",
    "predicted_latency",
    "recalibrate",
    "start_processes",
    "train",
]
