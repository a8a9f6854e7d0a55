"""Uncollected: imports without garbage collection."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Hold Python's garbage collector while the body imports, and leave all that is there then to the end.

    Modules stay, so a collection finds nothing: it walked over all of them again and again, at the start and while
    requests waited. Reference counts free all else, as ever. So enter this before any model is open.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
