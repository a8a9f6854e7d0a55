"""Which pages of a mapping are in memory."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
from numpy.typing import NDArray


def resident_bytes(data: NDArray[np.uint8]) -> int | None:
    """Bytes of a mapped array whose pages are in memory, whole pages of (nbytes,) uint8; None where nobody tells."""
    begin = data.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
    nbytes = data.ctypes.data + data.nbytes - begin
    pages = -(-nbytes // mmap.PAGESIZE)
    state = (ctypes.c_ubyte * pages)()
    try:
        failed = ctypes.CDLL(None, use_errno=True).mincore(ctypes.c_void_p(begin), ctypes.c_size_t(nbytes), state)
    except (OSError, AttributeError):
        return None
    return None if failed else sum(page & 1 for page in state) * mmap.PAGESIZE
