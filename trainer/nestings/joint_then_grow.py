"""Joint-then-grow: training of all levels together, then of each level alone. The combination is our own."""

from __future__ import annotations

from dataclasses import dataclass

from ..schedules.search import Schedule
from ..stage import Stage, Work
from .freeze_then_grow import RingStage, level_epochs, require_epochs
from .joint import Joint


@dataclass(frozen=True, slots=True)
class JointThenGrow:
    """Joint training, then freeze-then-grow: each level trains the weights that it adds a second time.

    Joint training makes the shared weights good for every level; freeze-then-grow alone makes them good only for the
    sparsest. In the second part each level trains without the influence of the others.
    """

    joint_epochs: int = 4
    """Epochs of all levels together; see Joint for the next three fields."""
    random_levels: int = 1
    gradient: str = "kept"
    soft_weight: float | None = None
    epochs_per_level: int | tuple[int, ...] = 2
    """Epochs of each level afterwards; a tuple has a number for each level, the sparsest first."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        self._joint()
        require_epochs(self)

    def check_levels(self, level_count: int) -> None:
        """Raise TrainingError if the numbers of epochs are not for `level_count` levels."""
        level_epochs(self, level_count)

    def stages(self, work: Work, schedule: Schedule) -> list[Stage]:
        """The dense stage, a search, a stage for all levels together, then one per level.

        Each of the last starts with its own norms and biases.
        """
        stages = self._joint().stages(work, schedule)
        epochs = level_epochs(self, work.net.level_count)
        return stages + [RingStage(work, count, level, inherits=False) for level, count in enumerate(epochs)]

    def _joint(self) -> Joint:
        return Joint(self.joint_epochs, self.random_levels, self.gradient, self.soft_weight)
