"""Lowering: the place where the level of a run fell while it ran, and the accuracy expected of such a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lowering:
    """The last fall of a run's level; a run whose level never fell has none.

    started_level: index of the level that the run began at.
    lowered_at: name of the first layer that ran at the level that the run ended at.
    lowered_from: index of the level just before that layer; `started_level` unless the level fell more than once.
    accuracy: expected accuracy of such a run, in [0, 1]; None where it is not known.
    """

    started_level: int
    lowered_at: str
    lowered_from: int
    accuracy: float | None

    @property
    def fell_again(self) -> bool:
        """Whether the level fell more than once."""
        return self.lowered_from != self.started_level
