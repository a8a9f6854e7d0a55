"""MappedFile: the bytes of a file in memory, which stay the same when another process opens the file for writing."""

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
    """The whole of an open file, mapped read-only: a page is read when it is first used, and is in memory only once.

    A mapping shows what other processes write into the file, and an access to a part that they cut off ends this
    process with SIGBUS. So guard() takes a read lease (fcntl(2), F_SETLEASE) where the system grants one. A process
    that opens the file for writing, or truncates it, then waits in the kernel until poll() has copied the bytes to
    private memory at the same address. Renaming another file over this one never waits and changes nothing here. In a
    forked child the lease stays with the parent, and the child sees what is written.

    path: path of the file. data: (nbytes,) uint8, read-only, valid as long as there is a reference to it.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._fd = os.dup(file.fileno())
        self._lock = threading.Lock()
        self._leased = self._private = False
        self._opened = _identity(self._fd)
        self._map: mmap.mmap | None = mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ)
        self.data: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        heed_forks(self)

    def forget(self) -> None:
        """As Inheritable: parent and child share one lease, and a child that ends it would end it for the parent."""
        self._lock = threading.Lock()
        self._leased = False

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # where __init__ failed
            self.close()

    @property
    def private(self) -> bool:
        """Whether the bytes are a private copy, because another process opened the file for writing."""
        return self._private

    @property
    def changed(self) -> bool:
        """Whether size or modification time of the file changed after opening, so that `data` may have changed too."""
        with self._lock:
            return self._fd >= 0 and not self._private and _identity(self._fd) != self._opened

    def guard(self) -> str:
        """Take the lease. Returns the reason why it was refused, or "". From then on, poll() must be called often.

        Raises CheckpointError where the file has been written to since it was opened.
        """
        with self._lock:
            if self._fd < 0 or not hasattr(fcntl, "F_SETLEASE") or not hasattr(fcntl, "F_SETSIG"):
                return "this system has no leases"
            try:
                # the system sends a signal when a lease breaks; the default one would end the process
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
        """Whether another process asked to write, and the bytes were copied first.

        The writer waits until this is called, but no longer than /proc/sys/fs/lease-break-time. Raises MemoryError
        where the copy does not fit in memory.
        """
        with self._lock:
            if not self._leased or fcntl.fcntl(self._fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK:
                return False
            if _identity(self._fd) == self._opened:  # else the system has stopped waiting, and the file has changed
                self._copy()
            self._end_lease()
            return self._private

    def release(self, begin: int) -> None:
        """Give the pages from byte `begin` on back to the system, which reads them again if used. A copy is kept."""
        begin += -begin % mmap.PAGESIZE
        with self._lock:
            if self._map is None or self._private or not hasattr(mmap, "MADV_DONTNEED"):
                return
            if begin < len(self._map):
                self._map.madvise(mmap.MADV_DONTNEED, begin)

    def close(self) -> None:
        """Close the file. The mapping, which has a handle of its own, ends with the last view of `data`.

        This object does not keep it: its owner may be garbage that Python finds minutes later, in cycles.
        """
        with self._lock:
            self.data, self._map = np.zeros(0, np.uint8), None
            if self._leased:
                self._end_lease()  # closing alone would not end it: the mapping has its own handle
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _copy(self) -> None:
        """Replace the mapping by a copy of itself at the same address, in one system call: inferences may run."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
        nbytes = self.data.nbytes
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        # not mmap.mmap: when it ends, that object would unmap an address that has another owner by then
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
