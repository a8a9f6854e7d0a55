"""Process memory: the resident part of it, and the return of freed memory to the system."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_PAGEMAP = Path("/proc/self/pagemap")
_STATUS = Path("/proc/self/status")
_PRESENT = np.uint64(1) << np.uint64(63)  # proc(5)


def resident_bytes(data: NDArray[np.uint8]) -> int | None:
    """Bytes of `data`, (nbytes,) uint8, whose pages are mapped into this process; None where the system does not tell.

    Not from mincore(2): that counts the system's cache of a file, which no process owns, and which the system drops
    when it needs memory.
    """
    begin = data.ctypes.data
    end = begin + data.nbytes
    first, last = begin // mmap.PAGESIZE, -(-end // mmap.PAGESIZE)
    try:
        with _PAGEMAP.open("rb", buffering=0) as file:
            file.seek(first * 8)
            entries = np.frombuffer(file.read((last - first) * 8), np.uint64)
    except OSError:
        return None
    if entries.size != last - first:
        return None
    pages = first + np.flatnonzero(entries & _PRESENT)
    starts = np.maximum(pages * mmap.PAGESIZE, begin)
    ends = np.minimum((pages + 1) * mmap.PAGESIZE, end)
    return int((ends - starts).sum())


def anonymous_bytes() -> int | None:
    """Resident bytes of this process that no file backs; None where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return None


def return_freed() -> None:
    """Give back to the system the memory that was freed and kept for later allocations, if the C library can."""
    with contextlib.suppress(OSError, AttributeError):
        _c_library().malloc_trim(ctypes.c_size_t(0))


@functools.cache
def _c_library() -> ctypes.CDLL:
    """The C library; opened once, because each opening makes a class, which waits for the garbage collector."""
    return ctypes.CDLL(None)
