"""Denormals: lets magnitudes below 1.2e-38 count as zero on this thread while a graph runs (kernels/denormals.h)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .library import loaded_library


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """A context in which denormal numbers count as zero on this thread; its end restores the thread's control.

    Our operators do this by themselves, on every thread that works for them. The context is for the graph's other
    operators, on the thread that runs the graph.
    """
    library = loaded_library()
    before = library.nested_sparse_flush_denormals()
    try:
        yield
    finally:
        library.nested_sparse_set_float_control(before)
