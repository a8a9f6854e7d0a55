"""LevelCell: the level of one inference, which may be lowered while it runs."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import onnxruntime as ort

from nested_sparse.argument import as_whole, shown
from nested_sparse.errors import LevelError

_MOST = 2**63 - 1


class LevelCell:
    """An int64 that the operators of a running inference read, each when it starts.

    Another thread may lower it: then the layers that have not begun run sparser ("rerouting", arXiv:2112.10930). It is
    never raised during a run: a run is lowered to end in time, and the pages of a denser level may first have to be
    loaded. One cell serves one run at a time.
    """

    def __init__(self, level: int) -> None:
        index = as_whole(level)
        if index is None or not 0 <= index <= _MOST:
            raise LevelError(
                f"a level cell needs a level of 0 or more, got {shown(level)}; it does not know the densest level"
            )
        self._level = np.array(index, np.int64)
        self._value = ort.OrtValue.ortvalue_from_numpy(self._level)
        self._lock = threading.Lock()

    @property
    def value(self) -> int:
        """The level that the next operator to start runs at."""
        return int(self._level)

    @property
    def ort_value(self) -> Any:
        """The cell as a tensor of ONNX Runtime: a view, so that a run sees changes."""
        return self._value

    @property
    def address(self) -> int:
        """Address of the int64 in memory."""
        return int(self._level.ctypes.data)

    def lower(self, level: int) -> None:
        """Lower the level to `level`. Raises LevelError where `level` is above the present one, or below 0."""
        with self._lock:
            index = as_whole(level)
            if index is None or not 0 <= index <= self.value:
                raise LevelError(
                    f"level {shown(level)}: a running inference may only be lowered, from {self.value} down to 0"
                )
            self._level[...] = index

    def reset(self, level: int) -> None:
        """Set the level of the next run. No run that uses the cell may be under way."""
        self._level[...] = level
