"""Guarded runs: inferences whose operators know the deadline, and lower the level themselves (kernels/route.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from nested_sparse.errors import InputError

from .library import loaded_library
from .structs import GuardedRun

__all__ = ["GuardedRun", "arrive_at", "guarding", "monotonic_ns"]


@contextmanager
def guarding(run: GuardedRun) -> Iterator[None]:
    """Within, the operators that read `run.level` on this thread decide by `run`.

    Raises InputError where this thread has a guarded run already.
    """
    library = loaded_library()
    if not library.nested_sparse_guard_this_thread(ctypes.byref(run)):
        raise InputError("this thread is inside a guarded run; wait for its end, or use another thread")
    try:
        yield
    finally:
        library.nested_sparse_guard_this_thread(None)


def arrive_at(run: GuardedRun, elapsed_ns: int) -> int:
    """The level of the run's next operator, as if it started `elapsed_ns` after the run began; for tests.

    The run goes on from there: its level, its position and all that it has seen are those of an operator that started.
    """
    now_ns = ctypes.c_int64(run.begun_ns + elapsed_ns)
    return int(loaded_library().nested_sparse_arrive_at(ctypes.byref(run), now_ns))


def monotonic_ns() -> int:
    """The operators' clock, ns of CLOCK_MONOTONIC."""
    return int(loaded_library().nested_sparse_monotonic_ns())
