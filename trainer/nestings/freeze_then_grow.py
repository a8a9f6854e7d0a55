"""Freeze-then-grow: training of the sparsest level, then of each next level around the frozen ones (arXiv:2112.10930).

Unlike the paper's code it has explicit first levels, separate norms and biases for each level, and soft labels of the
dense model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..checked import is_count, require, require_one_of
from ..ring import RingGuard, empty_ring, inherit
from ..schedules.search import Schedule
from ..stage import DenseStage, SearchStage, Stage, Work

RING_STARTS = ("dense", "zero")


@dataclass(frozen=True, slots=True)
class FreezeThenGrow:
    """A stage per level, the sparsest first. Each trains only the weights that its level adds, its norms and biases.

    Lower levels stay the same, bit for bit.
    """

    epochs_per_level: int | tuple[int, ...] = 4
    """Epochs of each level; a tuple has a number for each level, the sparsest first."""
    ring_start: str = "dense"
    """Start of a level's new weights: "dense", the values they had when dropped, or "zero", so that the level starts
    equal to the level below. With `search_each` they start with the values of the level's search."""
    search_each: bool = False
    """Whether every level has its own search around the frozen levels, as in the paper's code. If not, there is one
    search: level 0 keeps the weights that it found, the other levels add the largest of those that it dropped."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        require_epochs(self)
        require_one_of(self, "ring_start", RING_STARTS)

    def check_levels(self, level_count: int) -> None:
        """Raise TrainingError if the numbers of epochs are not for `level_count` levels."""
        level_epochs(self, level_count)

    def stages(self, work: Work, schedule: Schedule) -> list[Stage]:
        """The dense stage, a search, then a stage per level; with `search_each` both for each level."""
        net, epochs = work.net, level_epochs(self, work.net.level_count)
        stages: list[Stage] = [DenseStage(work, work.config.dense_epochs)]
        last_search = net.level_count - 1 if self.search_each else 0
        for level in range(net.level_count):
            if level <= last_search:
                last = level == last_search
                found = SearchStage(work, work.config.search_epochs, schedule, level, net.densities[level], last=last)
                stages.append(found)
            inherits = not self.search_each  # a search of its own has trained ring, norms and biases already
            stages.append(RingStage(work, epochs[level], level, self.ring_start, inherits=inherits))
        return stages


class PerLevel(Protocol):
    """Settings with a number of epochs for each level."""

    @property
    def epochs_per_level(self) -> int | tuple[int, ...]:
        """Epochs of each level; a tuple has a number for each level, the sparsest first."""
        ...


def require_epochs(settings: PerLevel) -> None:
    """Check the numbers of epochs. Raises TrainingError."""
    given = settings.epochs_per_level
    each = given if isinstance(given, tuple) else (given,)
    holds = bool(each) and all(is_count(epochs) for epochs in each)
    require(settings, "epochs_per_level", holds, "a whole number >= 0, or a tuple of one per level")


def level_epochs(settings: PerLevel, level_count: int) -> tuple[int, ...]:
    """Epochs of each of `level_count` levels. Raises TrainingError if a tuple has another length."""
    given = settings.epochs_per_level
    if not isinstance(given, tuple):
        return (given,) * level_count
    require(settings, "epochs_per_level", len(given) == level_count, f"one per level, {level_count} of them")
    return given


class RingStage(Stage):
    """Trains the weights that `level` adds to the level below. inherits: whether `begin` copies norms and biases."""

    def __init__(
        self, work: Work, epochs: int, level: int, ring_start: str = "dense", *, inherits: bool = True
    ) -> None:
        super().__init__(work, epochs)
        self.level, self.name = level, f"level {level}"
        self._ring_start, self._inherits = ring_start, inherits

    def begin(self) -> None:
        """Copy norms and biases from the level below, unless the level has trained its own."""
        level = self.level or 0
        self.net.set_level(level)
        if level and self._inherits:
            inherit(self.net, level)
            if self._ring_start == "zero":
                empty_ring(self.net, level)
        self.guard = RingGuard(self.net, level)

    def resume(self, state: Mapping[str, Any]) -> None:
        """Guard the present values of the net."""
        self.net.set_level(self.level or 0)
        self.guard = RingGuard(self.net, self.level or 0)
