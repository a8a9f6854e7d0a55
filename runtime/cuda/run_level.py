"""RunLevel: the level of one run, in the device's memory, where each kernel reads it when it starts."""

from __future__ import annotations

import time
from typing import Protocol

import torch

_PAUSE_S = 2e-5
"""Pause between two looks at the cell while the device computes."""


class Cell(Protocol):
    """A LevelCell: another thread may lower its value while a run is under way."""

    @property
    def value(self) -> int:
        """The level."""


class RunLevel:
    """The level that `cell` holds, followed by a tensor on the device.

    Kernels are queued long before they start. So a lower level is written beside the queue, on a stream of its own, and
    all kernels that have not started run at it, as the operators of a CPU do.

    tensor: () int32 on the device.
    """

    def __init__(self, cell: Cell, device: torch.device) -> None:
        self._cell, self._held = cell, cell.value
        self.tensor = torch.full((), self._held, dtype=torch.int32, device=device)
        self._beside = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        if self._beside is not None:
            self._beside.wait_event(torch.cuda.current_stream(device).record_event())  # so that it writes last
            self.tensor.record_stream(self._beside)

    def follow(self) -> None:
        """Write the cell's level where it has fallen."""
        value = self._cell.value
        if value >= self._held:
            return
        self._held = value
        if self._beside is None:
            self.tensor.fill_(value)
            return
        with torch.cuda.stream(self._beside):
            self.tensor.fill_(value)

    def wait(self) -> None:
        """Wait until the device has done all that is queued, and follow the cell meanwhile."""
        if self._beside is None:
            return
        done = torch.cuda.current_stream(self.tensor.device).record_event()
        while not done.query():
            self.follow()
            time.sleep(_PAUSE_S)
