"""MallocArenas: the heaps of the C library, of which a server needs few."""

from __future__ import annotations

import contextlib
import ctypes
import os

ARENAS = 2
"""The main thread, which has the event loop, uses the first; the other threads are spread over both."""
_M_ARENA_MAX = -8  # mallopt(3)


def limit_arenas(most: int = ARENAS) -> bool:
    """Let the C library make at most `most` arenas; whether it will. Call it before the process has a second thread.

    By default glibc makes up to eight for each core, and what is freed in one arena serves no allocation in another: a
    server whose models, certificates and connections change grows for hours. Does nothing where the environment
    already has a limit (MALLOC_ARENA_MAX, or glibc.malloc.arena_max in GLIBC_TUNABLES), and with another C library.
    """
    if "MALLOC_ARENA_MAX" in os.environ or "arena_max" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    with contextlib.suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None).mallopt(ctypes.c_int(_M_ARENA_MAX), ctypes.c_int(most)))  # 1, or 0 in failure
    return False
