"""MappedFile: a file's bytes in memory, which stay what they were when somebody opens the file to write into it."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import signal
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError
from .forked import heed_forks

_MREMAP_MAYMOVE_FIXED = 3
_MAP_FAILED = ctypes.c_void_p(-1).value


class MappedFile:
    """The whole of an open file, mapped read-only: nothing is read before it is touched, nothing is held twice.

    A mapping shows what others write into the file, and touching what they cut off ends the process with SIGBUS. So
    guard() takes a read lease (fcntl(2), F_SETLEASE) where the system grants one: the kernel then holds up whoever
    opens the file for writing, or truncates it, until poll() has moved the bytes to memory of their own, at the same
    address. Renaming another file over it never waits and changes nothing here. The lease stays the parent's in a
    forked child, which sees what is written.

    path; data: (nbytes,) uint8, read-only, valid as long as it is referred to.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._fd = os.dup(file.fileno())
        self._lock = threading.Lock()
        self._leased = self._private = False
        self._opened = _identity(self._fd)
        self._map = mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ)
        self.data: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        heed_forks(self)

    def forget(self) -> None:
        """As Inheritable: parent and child have one lease, of which either's end is the other's."""
        self._lock = threading.Lock()
        self._leased = False

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # where __init__ failed
            self.close()

    @property
    def private(self) -> bool:
        """Whether the bytes are a copy in memory, because somebody opened the file for writing."""
        return self._private

    @property
    def changed(self) -> bool:
        """Whether the file has another size or time of writing than when it was opened: `data` may show it."""
        with self._lock:
            return self._fd >= 0 and not self._private and _identity(self._fd) != self._opened

    def guard(self) -> str:
        """Take the lease; from now on poll() has to be called, often. Returns why it was refused, or "".

        Raises CheckpointError if the file has been written to since it was opened.
        """
        with self._lock:
            if self._fd < 0 or not hasattr(fcntl, "F_SETLEASE") or not hasattr(fcntl, "F_SETSIG"):
                return "this system has no leases"
            try:
                # what breaks a lease is told by a signal; unless another is asked for, one that ends the process
                fcntl.fcntl(self._fd, fcntl.F_SETSIG, signal.SIGURG)
                fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            except OSError as error:
                return error.strerror or str(error)
            self._leased = True
            if _identity(self._fd) != self._opened:
                self._end_lease()
                raise CheckpointError(
                    f"{self.path}: was written to while it was being opened; replace files by renaming, and open again"
                )
            return ""

    def poll(self) -> bool:
        """Whether somebody wanted to write, and the bytes were copied first. Raises MemoryError where they do not fit.

        Until then the writer waits, but not longer than /proc/sys/fs/lease-break-time.
        """
        with self._lock:
            if not self._leased or fcntl.fcntl(self._fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK:
                return False
            if _identity(self._fd) == self._opened:  # else the system would not wait any longer
                self._copy()
            self._end_lease()
            return self._private

    def release(self, begin: int) -> None:
        """Give the pages from byte `begin` on back to the system; they come back when touched. Not those of a copy."""
        begin += -begin % mmap.PAGESIZE
        with self._lock:
            if begin < len(self._map) and not self._private and hasattr(mmap, "MADV_DONTNEED"):
                self._map.madvise(mmap.MADV_DONTNEED, begin)

    def close(self) -> None:
        """Let go of the file; the mapping goes away with the last view of `data`."""
        with self._lock:
            self.data = np.zeros(0, np.uint8)
            if self._leased:
                self._end_lease()  # closing alone would not: the mapping has a handle of its own
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _copy(self) -> None:
        """Replace the mapping by a copy of itself at the same address, at one stroke: runs may be under way."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
        nbytes = len(self._map)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        # no mmap.mmap: that object would unmap, when it ends, an address that is no longer its own
        address = libc.mmap(None, ctypes.c_size_t(nbytes), protection, flags, -1, ctypes.c_long(0))
        if address == _MAP_FAILED:
            raise MemoryError(f"{self.path}: no {nbytes} bytes of memory for a copy of it")
        target = self.data.ctypes.data
        ctypes.memmove(address, target, nbytes)
        size = ctypes.c_size_t(nbytes)
        moved = libc.mremap(ctypes.c_void_p(address), size, size, _MREMAP_MAYMOVE_FIXED, ctypes.c_void_p(target))
        if moved == _MAP_FAILED:
            trouble = OSError(ctypes.get_errno(), "mremap")
            libc.munmap(ctypes.c_void_p(address), size)
            raise trouble
        self._private = True

    def _end_lease(self) -> None:
        self._leased = False
        fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_size, status.st_mtime_ns
