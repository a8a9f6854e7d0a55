"""Quota: a share of CPU time that the servers may not exceed, by a cgroup of their own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from nested_sparse.errors import BenchError
from nested_sparse.runtime.resources import ROOT, cgroup_folders

PERIOD_US = 20_000
"""A fifth of the kernel's default of 100 ms: a server that stands still for 50 ms keeps no deadline at any level."""


class Quota:
    """Limits the processes `pids` to `cores` of CPU time between start() and stop(), by cgroup version 2 or 1.

    Otherwise they stay in the cgroup in which they were. Raises BenchError where this process may not set a quota.
    """

    def __init__(self, pids: Sequence[int], cores: float, root: Path = ROOT) -> None:
        if not pids:
            raise BenchError("not allowed here: the server is not ours, and a quota needs its process")
        self._pids = pids
        self._quota_us = max(1000, round(cores * PERIOD_US))
        self._parent = _writable(root)
        self._folder = self._parent / f"nested-sparse-bench-{os.getpid()}"
        self._v2 = (self._parent / "cgroup.controllers").exists()

    def __enter__(self) -> Quota:
        try:
            with _allowed():
                self._folder.mkdir(exist_ok=True)
                if self._v2:
                    (self._parent / "cgroup.subtree_control").write_text("+cpu")
                    (self._folder / "cpu.max").write_text(f"{self._quota_us} {PERIOD_US}")
                else:
                    (self._folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                    (self._folder / "cpu.cfs_quota_us").write_text(str(self._quota_us))
        except BenchError:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._remove()

    def start(self) -> None:
        """Put the processes under the quota."""
        self._move(self._folder)

    def stop(self) -> None:
        """Take the processes out of the quota."""
        self._move(self._parent)

    def _move(self, folder: Path) -> None:
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):  # the missing answers show that a server died
                (folder / "cgroup.procs").write_text(str(pid))

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._folder.rmdir()


def _writable(root: Path) -> Path:
    """The cgroup folder of this process that has the CPU controller. Raises BenchError."""
    for folder in cgroup_folders("cpu", root):
        if (folder / "cpu.cfs_quota_us").exists() or (folder / "cgroup.controllers").exists():
            if folder.joinpath("cgroup.controllers").exists() and "cpu" not in _controllers(folder):
                continue
            if not os.access(folder, os.W_OK):
                raise BenchError(f"not allowed here: {folder} may not be written")
            return folder
    raise BenchError("not allowed here: no cgroup of this process has the CPU controller")


def _controllers(folder: Path) -> list[str]:
    return (folder / "cgroup.controllers").read_text().split()


@contextlib.contextmanager
def _allowed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BenchError(f"not allowed here: {error.filename or 'cgroup'}: {error.strerror or error}") from None
