"""Progress of a training run: one report per epoch, and a bar that shows them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One finished epoch of a run."""

    phase: str
    """"dense" or "level l"."""
    epoch: int
    """From 1 to `epochs`, within the phase."""
    epochs: int
    loss: float
    """Mean over the epoch's batches."""
    density: float
    """Kept / all nested weights at the end of the epoch."""
    learning_rate: float
    """At the end of the epoch."""
    duration_s: float
    done_epochs: int
    """Of the whole run, this one included."""
    total_epochs: int

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.phase} epoch {self.epoch}/{self.epochs}: loss {self.loss:.4f}, density {self.density:.2%}, "
            f"{self.duration_s:.1f} s"
        )


def log_progress(report: EpochReport) -> None:
    """Log the report; what a run does by default."""
    LOGGER.info("%s", report)


class ProgressBar:
    """A bar on the terminal: `with ProgressBar() as bar: freeze_then_grow(..., on_progress=bar)`."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._task: TaskID | None = None

    def __call__(self, report: EpochReport) -> None:
        """Show `report`."""
        if self._task is None:
            self._task = self._progress.add_task("training", total=report.total_epochs)
        description = f"{report.phase}, {report.density:.1%} of weights, loss {report.loss:.3f}"
        self._progress.update(self._task, completed=report.done_epochs, description=description)

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
