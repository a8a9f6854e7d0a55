"""Post-training nesting: levels from a pre-trained model and a few hundred samples, without training."""

from .levels import nest_pretrained
from .report import LevelReport, level_report

__all__ = ["LevelReport", "level_report", "nest_pretrained"]
