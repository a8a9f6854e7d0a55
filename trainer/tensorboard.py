"""TensorBoard: curves of each epoch's losses per level and density. It needs the optional `tensorboard` package."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from nested_sparse.errors import TrainingError

from .progress import EpochReport


class TensorBoard:
    """A callback: `with TensorBoard("runs") as board: train(..., on_progress=board)`.

    Steps are epochs of the whole run. A resumed run replaces the curves from its first epoch on. Raises TrainingError
    when the package is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrainingError(
                f"--tensorboard needs the tensorboard package ({error}): pip install 'nested-sparse[tensorboard]'"
            ) from None
        self._folder, self._make = str(folder), SummaryWriter
        self._writer: Any = None

    def __call__(self, report: EpochReport) -> None:
        """Add one epoch."""
        step = report.done_epochs
        if self._writer is None:
            self._writer = self._make(self._folder, purge_step=step)
        for name, loss in report.losses.items():
            self._writer.add_scalar(f"loss/{name if name == 'dense' else f'level {name}'}", loss, step)
        self._writer.add_scalar("density", report.density, step)
        self._writer.add_scalar("learning rate", report.learning_rate, step)
        self._writer.add_scalar("seconds per epoch", report.duration_s, step)
        self._writer.flush()

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
