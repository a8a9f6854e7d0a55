"""Tasks: the purposes that a net can be trained for, by the names that a recipe uses."""

from .classification import Classification
from .detection import Detection
from .instance_segmentation import InstanceSegmentation
from .language import Language
from .ranking import Ranking
from .segmentation import Segmentation
from .task import Judged, Mean, Tally, Task

__all__ = [
    "TASKS",
    "Classification",
    "Detection",
    "InstanceSegmentation",
    "Judged",
    "Language",
    "Mean",
    "Ranking",
    "Segmentation",
    "Tally",
    "Task",
]

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "ranking": Ranking,
    "language": Language,
    "segmentation": Segmentation,
    "detection": Detection,
    "instance_segmentation": InstanceSegmentation,
}
