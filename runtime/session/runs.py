"""Runs: the runs of a session that are under way; those that take too long are ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from typing import Any, Protocol

import onnxruntime as ort

from nested_sparse.forked import heed_forks

from .watchdog import Watchdog


class Task(Hashable, Protocol):
    """Work that the watchdog can end: a run, or the load of a graph."""

    def stop(self) -> None:
        """Let the work end soon. Called from any thread."""


class Clockwork:
    """The process's one watchdog of runs and loads. Its thread starts with the first of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watchdog: Watchdog[Task] | None = None
        heed_forks(self)

    def forget(self) -> None:
        """As Inheritable. The thread exists in the parent only."""
        self._lock = threading.Lock()
        self._watchdog = None

    def begin(self, task: Task, limit_s: float) -> None:
        """Watch `task`: unless end() is called within `limit_s`, another thread calls `task.stop()` once."""
        (self._watchdog or self._started()).begin(task, limit_s)

    def end(self, task: Task) -> None:
        """Watch `task` no longer: it has ended."""
        (self._watchdog or self._started()).end(task)

    def _started(self) -> Watchdog[Task]:
        with self._lock:
            if self._watchdog is None:
                self._watchdog = Watchdog(_stop)
            return self._watchdog


def _stop(task: Task, elapsed_s: float) -> None:
    task.stop()


CLOCKWORK = Clockwork()


class Run:
    """One run under way.

    options: ONNX Runtime's RunOptions. begun_s: reading of the monotonic clock. stopped: whether stop() was called.
    """

    __slots__ = ("begun_s", "options", "stopped")

    def __init__(self) -> None:
        self.options: Any = ort.RunOptions()
        self.begun_s = time.monotonic()
        self.stopped = False

    def stop(self) -> None:
        """Let the run end with an error before its next operator, also in a loop. Called from any thread."""
        self.stopped = True
        self.options.terminate = True


class Runs:
    """The runs of one session, each in a thread of its own. limit_s: longest time of a run. Thread-safe."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._of_thread: dict[int, Run] = {}

    def begin(self) -> Run:
        """The run that begins in this thread."""
        run = self._of_thread[threading.get_ident()] = Run()
        CLOCKWORK.begin(run, self.limit_s)
        return run

    def end(self, run: Run) -> None:
        """Take note that `run` has ended."""
        CLOCKWORK.end(run)
        del self._of_thread[threading.get_ident()]

    def stop(self, thread: int, begun_before_s: float) -> None:
        """Stop the run of `thread`, unless it began after `begun_before_s`."""
        run = self._of_thread.get(thread)
        if run is not None and run.begun_s <= begun_before_s:
            run.stop()
