"""Guard: an object that lowers the level of a run while it runs, so that the run meets its deadline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from .level_cell import LevelCell
from .lowering import Lowering


class Guard(Protocol):
    """Armed for one run, given to `Session.run`, and asked afterwards. It serves one run at a time."""

    def arm(
        self,
        level: int,
        level_ms: Sequence[float],
        budget_ms: float,
        slowdown: float,
        *,
        least_accuracy: float = -math.inf,
        lowest_level: int = 0,
    ) -> None:
        """Prepare the next run, which starts at `level`. The budget counts from now.

        level_ms: (L,) profiled time of a whole run at each level, of the batch that will run, in milliseconds.
        budget_ms: time that the run may take.
        slowdown: forecast factor on `level_ms`.
        least_accuracy: lowest expected accuracy that the run may fall to.
        lowest_level: lowest level that the run may fall to.
        """

    def tighten(self, left_ms: float) -> None:
        """Have the run under way end within `left_ms` from now, if that is sooner than it had. From any thread."""

    def running(self, level: int, level_count: int) -> AbstractContextManager[LevelCell]:
        """Context of the run that was armed for `level`, of a model of `level_count` levels; gives the run's cell."""

    @property
    def level(self) -> int:
        """Index of the level that the last run ended at."""

    @property
    def lowering(self) -> Lowering | None:
        """Where the level of the last run fell; None if it did not."""

    @property
    def nominal_ms(self) -> float:
        """Profiled time, without any slowdown, of the path that the last run took, in milliseconds."""
