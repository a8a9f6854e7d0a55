"""Arena: the memory that ONNX Runtime's runs allocate from, one for all sessions of a process, and with an end.

A run's need depends on its inputs and on the graph, which is a file's: a few bytes of it can ask for all of a machine's
memory. With an end such a run fails by itself (OutOfMemoryError), where otherwise the system would kill the process.
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
"""Of what is available, left to the rest of the process and to others."""
LEAST_SHARE = 0.25
"""Of what the machine, or the cgroup, has: a process may start at a moment when others have nearly all."""
_USE_IT = ("session.use_env_allocators", "1")
# ONNX Runtime gives memory back at the end of a run that asks for it, and at no other time. For when no run is to be
# expected: a model of one Identity, float32 [1] "x" to "y", IR version 8, opset 17.
IDENTITY_MODEL = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a0808011204"
    "0a02080142040a001011"
)
_LOGGER = logging.getLogger("nested_sparse.runtime")


def most_bytes() -> int | None:
    """Bytes that all runs of this process together may allocate, by what is available now; None if that is unknown."""
    readings = memory()
    available = readings.get("available_memory_bytes")
    if available is None:
        return None
    whole = min(readings.get("memory_limit_bytes", math.inf), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return int(max(available * (1 - RESERVE_SHARE), whole * LEAST_SHARE))


class Arena:
    """The process's arena; ONNX Runtime has one, so there is one of these. Thread-safe.

    In a forked child, and where the system does not say how much memory there is, it is not there: sessions then have
    arenas of their own, without an end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made = self._inherited = False
        self._shrinker: Any = None
        heed_forks(self)

    def forget(self) -> None:
        """As Inheritable: another thread may have held ONNX Runtime's own lock on the parent's arena."""
        self._lock = threading.Lock()
        self._inherited = self._made
        self._made = False

    def join(self, options: Any) -> None:
        """Have the session that is made with `options` allocate from the arena, which the first one makes."""
        with self._lock:
            if not self._made and not self._inherited and (most := most_bytes()) is not None:
                where = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
                ort.create_and_register_allocator(where, ort.OrtArenaCfg({"max_mem": most}))
                self._made = True
                _LOGGER.debug("runs may allocate %d bytes in all", most)
            if self._made:
                options.add_session_config_entry(*_USE_IT)

    def give_back(self) -> None:
        """Return to the system what no session uses any more, as after one is closed."""
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
    """Have the run with these options end by returning to the system what it, and no other, needs any more."""
    run.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
