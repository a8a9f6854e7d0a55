"""Progress of a training run: one report per epoch, and a bar that shows them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
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

    stage: str
    """"dense", "search l", "level l" or "joint"."""
    epoch: int
    """From 1 to `epochs`, within the stage."""
    epochs: int
    losses: dict[str, float]
    """Mean over the epoch's batches for each level that was trained: "dense", or the level's number."""
    density: float
    """Kept / all nested weights at the end of the epoch."""
    learning_rate: float
    """At the end of the epoch."""
    duration_s: float
    done_epochs: int
    """Of the whole run, this one included."""
    total_epochs: int
    passes: float = 1.0
    """Forward and backward passes over the epoch's batches: above 1 where a step trains several levels."""

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.stage} epoch {self.epoch}/{self.epochs}: loss {self.loss_text}, density {self.density:.2%}, "
            f"{self.duration_s:.1f} s"
        )

    @property
    def loss_text(self) -> str:
        """The loss, or one for each level."""
        if len(self.losses) == 1:
            return f"{next(iter(self.losses.values())):.4f}"
        return ", ".join(f"{name}: {self.losses[name]:.4f}" for name in sorted(self.losses, key=int))


def log_progress(report: EpochReport) -> None:
    """Log the report; what a run does by default."""
    LOGGER.info("%s", report)


class ProgressBar:
    """A bar on the terminal: `with ProgressBar() as bar: train(..., on_progress=bar)`.

    console: where it is drawn, by default stdout.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._task: TaskID | None = None

    def __call__(self, report: EpochReport) -> None:
        """Show `report`."""
        if self._task is None:
            self._task = self._progress.add_task("training", total=report.total_epochs)
        description = f"{report.stage}, {report.density:.1%} of weights, loss {report.loss_text}"
        self._progress.update(self._task, completed=report.done_epochs, description=description)

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
