"""Arena: the memory that ONNX Runtime's runs allocate from: one for all sessions of a process, of bounded size.

The need of a run depends on its inputs and on the graph. The graph comes from a file, and a few bytes of it can ask for
all memory of a machine. Because of the bound such a run fails by itself (OutOfMemoryError); without one, the system
would kill the process.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from typing import Any

import numpy as np
import onnxruntime as ort

from nested_sparse.forked import heed_forks

from ..resources import memory

RESERVE_SHARE = 0.1
"""Share of the available memory that is left to the rest of the process and to other processes."""
LEAST_SHARE = 0.25
"""Least bound, as a share of the memory of the machine or cgroup: at a start, other processes may hold most of it."""
_USE_IT = ("session.use_env_allocators", "1")
# ONNX Runtime gives memory back at the end of a run that asks for it, and at no other time. Where no run is expected,
# this model runs: one Identity, float32 [1] "x" to "y", IR version 8, opset 17.
IDENTITY_MODEL = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a0808011204"
    "0a02080142040a001011"
)
_LOGGER = logging.getLogger("nested_sparse.runtime")


def most_bytes() -> int | None:
    """Bytes that all runs of this process together may allocate, from the memory available now; None if unknown."""
    readings = memory()
    available = readings.get("available_memory_bytes")
    if available is None:
        return None
    whole = min(readings.get("memory_limit_bytes", math.inf), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return int(max(available * (1 - RESERVE_SHARE), whole * LEAST_SHARE))


class Arena:
    """The process's arena. ONNX Runtime has one per process, so there is one instance. Thread-safe.

    There is none in a forked child, and none where the system does not tell how much memory is available. Sessions then
    have arenas of their own, without a bound.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made = self._inherited = False
        self._shrinker: Any = None
        heed_forks(self)

    def forget(self) -> None:
        """As Inheritable. Another thread of the parent may have held ONNX Runtime's own lock on the arena."""
        self._lock = threading.Lock()
        self._inherited = self._made
        self._made = False

    def join(self, options: Any) -> None:
        """Let a session made with `options` allocate from the arena. The first call makes the arena."""
        with self._lock:
            if not self._made and not self._inherited and (most := most_bytes()) is not None:
                where = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
                ort.create_and_register_allocator(where, ort.OrtArenaCfg({"max_mem": most}))
                self._made = True
                _LOGGER.debug("runs may allocate %d bytes in all", most)
            if self._made:
                options.add_session_config_entry(*_USE_IT)

    def give_back(self) -> None:
        """Return to the system the memory that no session uses any more, as after a session was closed."""
        with self._lock:
            if not self._made:
                return
            if self._shrinker is None:
                options = ort.SessionOptions()
                options.intra_op_num_threads = options.inter_op_num_threads = 1
                options.add_session_config_entry(*_USE_IT)
                self._shrinker = ort.InferenceSession(IDENTITY_MODEL, options, providers=["CPUExecutionProvider"])
            run = ort.RunOptions()
            shrink_after(run)
            self._shrinker.run(None, {"x": np.zeros(1, np.float32)}, run)


ARENA = Arena()


def shrink_after(run: Any) -> None:
    """Let the run with these options end by returning to the system the memory that no run needs any more."""
    run.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
