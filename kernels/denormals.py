"""Denormals: lets magnitudes below 1.2e-38 count as zero on this thread while a graph runs (kernels/denormals.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache

from .library import loaded_library


class denormals_flushed:  # noqa: N801 -- used as a function is
    """A context in which denormal numbers count as zero on this thread; its end restores the thread's control.

    Our operators do this by themselves, on every thread that works for them. The context is for the graph's other
    operators, on the thread that runs the graph.
    """

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = _calls()[0]()

    def __exit__(self, *_: object) -> None:
        _calls()[1](self._before)


@lru_cache(maxsize=1)
def _calls() -> tuple[Callable[[], int], Callable[[int], None]]:
    """The library's functions that flush denormals and that restore the control, as calls that keep Python's lock.

    They take a few instructions. To release the lock for them lets another thread take it, twice for each inference.
    """
    library = ctypes.PyDLL("", handle=loaded_library()._handle)
    flush, restore = library.nested_sparse_flush_denormals, library.nested_sparse_set_float_control
    flush.restype = ctypes.c_uint64
    restore.argtypes, restore.restype = (ctypes.c_uint64,), None
    return flush, restore
