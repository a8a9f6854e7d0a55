"""Denormals: numbers below 1.2e-38 as zero while a graph runs, and as they were afterwards (kernels/denormals.h)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .library import loaded_library


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Within, this thread's arithmetic takes denormal numbers for zero; afterwards its control is what it was.

    Our operators do so by themselves, on each thread. This is for the others of a graph, on the thread that runs it.
    """
    library = loaded_library()
    before = library.nested_sparse_flush_denormals()
    try:
        yield
    finally:
        library.nested_sparse_set_float_control(before)
