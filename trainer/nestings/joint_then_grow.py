"""Joint-then-grow: all levels together first, then each by itself from the sparsest on. Our own combination."""

from __future__ import annotations

from dataclasses import dataclass

from ..schedules.search import Schedule
from ..stage import Stage, Work
from .freeze_then_grow import RingStage, level_epochs, require_epochs
from .joint import Joint


@dataclass(frozen=True, slots=True)
class JointThenGrow:
    """Joint training, after which freeze-then-grow settles what it left: each level trains what it adds, once more.

    Joint training makes the shared weights good for every level, freeze-then-grow alone only for the sparsest; the
    second part gives each level what the others no longer pull at.
    """

    joint_epochs: int = 4
    """Epochs of all levels together; see Joint for the next three."""
    random_levels: int = 1
    gradient: str = "kept"
    soft_weight: float = 0.5
    epochs_per_level: int | tuple[int, ...] = 2
    """Epochs of each level afterwards; a tuple gives each level its own, the sparsest first."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        self._joint()
        require_epochs(self)

    def stages(self, work: Work, schedule: Schedule) -> list[Stage]:
        """A search, all levels together, then each level with the norms and biases that it has."""
        stages = self._joint().stages(work, schedule)
        epochs = level_epochs(self, work.net)
        return stages + [RingStage(work, count, level, inherits=False) for level, count in enumerate(epochs)]

    def _joint(self) -> Joint:
        return Joint(self.joint_epochs, self.random_levels, self.gradient, self.soft_weight)
