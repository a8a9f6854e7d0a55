"""Counting text model: behind each byte comes the next higher one, plus the level; in numpy, without a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nested_sparse.free_size import FreeSize
from nested_sparse.level import Level
from nested_sparse.runtime.session import Array, Arrays, Guard
from nested_sparse.tensor_spec import TensorSpec

LONGEST = 8
STATE = {"begin_out": "begin", "sum_out": "sum"}
_BATCH, _LENGTH = FreeSize("batch", batch=True), FreeSize("length", most=LONGEST)
INPUTS = (
    TensorSpec("words", "int64", (None, None), (1, 2), (_BATCH, _LENGTH)),
    TensorSpec("begin", "int64", (None,), (1,), (_BATCH,)),
    TensorSpec("sum", "float32", (None, 1), (1, 1), (_BATCH, None)),
)
OUTPUTS = (
    TensorSpec("logits", "float32", (None, None, 256), (1, 2, 256), (_BATCH, _LENGTH, None)),
    TensorSpec("begin_out", "int64", (None,), (1,), (_BATCH,)),
    TensorSpec("sum_out", "float32", (None, 1), (1, 1), (_BATCH, None)),
)
LEVELS = tuple(
    Level(index, (index + 1) / 4, 100, 100, {"accuracy": 0.5 + 0.1 * index, "bits_per_byte": 3.0 - index})
    for index in range(4)
)


def counted(feeds: Arrays, level: int = 0) -> dict[str, Array]:
    """The outputs: after byte b comes b + 1 + level. `sum` adds up the bytes that were read, `begin` counts them."""
    words = feeds["words"]
    following = (words + 1 + level) % 256
    logits = np.where(np.arange(256) == following[..., None], np.float32(9), np.float32(0))
    return {
        "logits": logits,
        "begin_out": feeds["begin"] + words.shape[1],
        "sum_out": feeds["sum"] + words.sum(1, keepdims=True).astype(np.float32),
    }


class CountingSession:
    """As a Session. `takes` is called with the level at each run, and lets the time pass that it takes."""

    def __init__(self, takes: Callable[[int], object] = lambda level: None) -> None:
        self.name, self.levels, self.rows, self.decides = "counting", LEVELS, None, False
        self.inputs: Sequence[TensorSpec] = INPUTS
        self.outputs: Sequence[TensorSpec] = OUTPUTS
        self.state = STATE
        self.runs: list[tuple[int, Arrays]] = []
        self._takes = takes

    def run(self, inputs: Arrays, level: int, guard: Guard | None = None) -> dict[str, Array]:
        """The outputs at `level`."""
        self.runs.append((level, inputs))
        self._takes(level)
        return counted(inputs, level)

    def stop_run(self, thread: int, begun_before_s: float) -> None:
        """No run is ever stuck."""
