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

    Lowered from another thread, the layers that have not begun run sparser ("rerouting", arXiv:2112.10930). It is never
    raised: the pages of a denser level may not be there in time, which is what lowering is for. One cell serves one run
    at a time.
    """

    def __init__(self, level: int) -> None:
        index = as_whole(level)
        if index is None or not 0 <= index <= _MOST:
            raise LevelError(
                f"a level cell needs a level from 0 on, got {shown(level)}; it cannot know which one is the densest"
            )
        self._level = np.array(index, np.int64)
        self._value = ort.OrtValue.ortvalue_from_numpy(self._level)
        self._lock = threading.Lock()

    @property
    def value(self) -> int:
        """The level now."""
        return int(self._level)

    @property
    def ort_value(self) -> Any:
        """The cell as a tensor: a view, so that a run under way sees it change."""
        return self._value

    @property
    def address(self) -> int:
        """Where the int64 lies."""
        return int(self._level.ctypes.data)

    def lower(self, level: int) -> None:
        """Lowers the level to `level`. Raises LevelError if that would raise it, or is below 0."""
        with self._lock:
            index = as_whole(level)
            if index is None or not 0 <= index <= self.value:
                raise LevelError(
                    f"level {shown(level)}: a running inference may only be lowered, from {self.value} down to 0"
                )
            self._level[...] = index

    def reset(self, level: int) -> None:
        """Sets the level of the next run. The caller knows that none is under way."""
        self._level[...] = level
