"""GuardedRun: what the operators of one inference know of its deadline, so that they can lower its level themselves."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from nested_sparse.errors import InputError

from .library import loaded_library


class Seen(ctypes.Structure):
    """Time that passed, and profiled time of what was done in it, ms."""

    _fields_ = (("elapsed_ms", ctypes.c_double), ("done_ms", ctypes.c_double))


class GuardedRun(ctypes.Structure):
    """The struct of kernels/route.h, which says what each field is. What its pointers point to outlives the run."""

    _fields_ = (
        ("level", ctypes.c_void_p),
        ("level_ms", ctypes.c_void_p),
        ("remaining_share", ctypes.c_void_p),
        ("accuracy", ctypes.c_void_p),
        ("started_ns", ctypes.c_void_p),
        ("layers", ctypes.POINTER(ctypes.c_char_p)),
        ("capacity", ctypes.c_int32),
        ("level_count", ctypes.c_int32),
        ("operator_count", ctypes.c_int32),
        ("lowest_level", ctypes.c_int32),
        ("forced_at", ctypes.c_int32),
        ("forced_level", ctypes.c_int32),
        ("begun_ns", ctypes.c_int64),
        ("budget_ms", ctypes.c_double),
        ("slowdown", ctypes.c_double),
        ("least_accuracy", ctypes.c_double),
        ("margin", ctypes.c_double),
        ("position", ctypes.c_int32),
        ("lowered_at", ctypes.c_int32),
        ("lowered_from", ctypes.c_int32),
        ("share_left", ctypes.c_double),
        ("done_ms", ctypes.c_double),
        ("seen", Seen),
        ("last", Seen),
    )


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


def decide(run: GuardedRun, level: int, operator: int, elapsed_ms: float, lately: tuple[float, float]) -> int:
    """The level that the operators choose from number `operator` on, by the rule of kernels/route.h; for tests.

    lately: elapsed and done ms. Nothing is checked: 0 <= level < run.level_count, 0 <= operator < run.operator_count.
    """
    times = map(ctypes.c_double, (elapsed_ms, *lately))
    return int(loaded_library().nested_sparse_decide(ctypes.byref(run), level, operator, *times))


def monotonic_ns() -> int:
    """The operators' clock, ns of CLOCK_MONOTONIC."""
    return int(loaded_library().nested_sparse_monotonic_ns())
