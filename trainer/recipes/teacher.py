"""TeacherOptions: the table [teacher] of a recipe, a trained model whose soft labels the levels learn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..checked import require


@dataclass(frozen=True, slots=True)
class TeacherOptions:
    """Keys of [teacher]; at most one is given. Without the table, the teacher is as the nesting says."""

    checkpoint: Path | None = None
    """A checkpoint of the same inputs and classes, e.g. of an earlier `train`; its densest level answers."""
    weights: Path | None = None
    """The file of a state dict of the recipe's [model]."""

    def __post_init__(self) -> None:
        """Check that there is one teacher. Raises TrainingError."""
        require(self, "weights", not (self.checkpoint and self.weights), "none beside checkpoint")
