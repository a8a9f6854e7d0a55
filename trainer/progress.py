"""Progress: one report per epoch of a training run, and a bar that shows the reports."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TextIO

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
    """Number of the epoch within the stage, from 1 to `epochs`."""
    epochs: int
    losses: dict[str, float]
    """Mean over the epoch's batches for each level that was trained: "dense", or the level's number."""
    density: float
    """Kept / all nested weights at the end of the epoch."""
    learning_rate: float
    """Learning rate at the end of the epoch."""
    duration_s: float
    done_epochs: int
    """Finished epochs of the whole run, this one included."""
    total_epochs: int
    passes: float = 1.0
    """Forward and backward passes per batch; above 1 when a step trains several levels."""

    def __str__(self) -> str:
        """The report in one line."""
        return (
            f"{self.stage} epoch {self.epoch}/{self.epochs}: loss {self.loss_text}, density {self.density:.2%}, "
            f"{self.duration_s:.1f} s"
        )

    @property
    def loss_text(self) -> str:
        """The loss, or the losses of all trained levels."""
        if len(self.losses) == 1:
            return f"{next(iter(self.losses.values())):.4f}"
        return ", ".join(f"{name}: {self.losses[name]:.4f}" for name in sorted(self.losses, key=int))


def log_progress(report: EpochReport) -> None:
    """Log the report; the default of `train`."""
    LOGGER.info("%s", report)


class ProgressBar:
    """A bar on the terminal: `with ProgressBar() as bar: train(..., on_progress=bar)`.

    console: console for the bar; stdout by default.
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


@contextmanager
def progress_on(stream: TextIO) -> Iterator[Callable[[EpochReport], None]]:
    """A listener of `train`: a bar where `stream` is a terminal, else `log_progress`, as a bar would not be seen."""
    if stream.isatty():
        with ProgressBar(Console(file=stream)) as bar:
            yield bar
    else:
        yield log_progress
