"""Session: a checkpoint, open and ready to run at any of its levels."""

from __future__ import annotations

import ctypes
import hashlib
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from nested_sparse.argument import file_path, real, shown, whole
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import (
    CheckpointError,
    InputError,
    KernelError,
    LevelError,
    OutOfMemoryError,
    StuckError,
    UnavailableError,
)
from nested_sparse.excerpt import excerpt
from nested_sparse.forked import heed_forks
from nested_sparse.kernels import library
from nested_sparse.kernels.denormals import denormals_flushed
from nested_sparse.level import resolve_level
from nested_sparse.value_type import INT8

from ..resources import usable_cores
from .arena import ARENA, shrink_after
from .bound_session import BoundSession
from .device import CPU, Engine, GpuEngine, checked_device, open_on_gpu
from .file_guard import FileGuard
from .guard import Guard
from .level_cell import LevelCell
from .ort_session import MESSAGE_CHARACTERS, open_ort, segment_feeds
from .ort_values import check_exchangeable
from .process_memory import resident_bytes, return_freed
from .runs import Run, Runs
from .tensors import Array, Arrays, check_inputs, unequal_batches

MAX_THREADS = 4096
"""More threads than any device has. ONNX Runtime does not bound the number: asked for 40 000, it never returned."""
RUN_LIMIT_S = 300.0
"""Longest time of a run unless another limit is given: a graph may hold a loop that never ends."""
# Signs of a failed allocation in messages: of ONNX Runtime's arena, of C++'s allocators in its code and in ours, and of
# torch's.
_OUT_OF_MEMORY = (
    *("Failed to allocate memory", "Available memory of", "bad_alloc", "bad allocation"),
    "CUDA out of memory",
)


class Session:
    """One graph and one copy of the weights, mapped from the file, for every level.

    The level is an input: switching it loads nothing and allocates nothing. Several threads may call run() at once. A
    session can be pickled for another process: there it opens the same file, with as many threads. A session that a
    forked child inherits cannot run, and closing it there leaves the parent's session as it was.

    path: path of the file. name: the file's stem. inputs, outputs: tuples of TensorSpec. levels: tuple of Level.
    rows: mark of the file's rows (Metadata.rows); None where it has none.
    decides: whether one value may decide what its graph computes for all samples of a batch (GraphFacts).
    reroutes: what lowered inferences were measured to score.
    threads: threads of one run, at most MAX_THREADS; None for every core that this process may use.
    spin: whether its threads wait awake for the next layer, at most 0.2 ms, in place of asleep. Several threads are
    then faster on a device that runs nothing else, and slower beside other work (docs/decisions/006).
    device, dtype: "cpu"; or "cuda", with the type to compute in, float16 unless one is given (docs/gpu.md). A GPU takes
    no guard, no profile_to, and no change of threads.
    profile_to: folder for ONNX Runtime's profile, which close() writes.
    run_limit_s: longest time of a run, in seconds; a longer run is ended with StuckError.
    check: called with the checkpoint before anything of its graph is used; what it raises ends the opening.

    Raises CheckpointError (the file, or a graph in it that may not run), KernelError (the operator library),
    InputError (an argument).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        spin: bool = False,
        device: str = CPU,
        dtype: str | None = None,
        profile_to: Path | None = None,
        run_limit_s: float = RUN_LIMIT_S,
        check: Callable[[Checkpoint], None] | None = None,
    ) -> None:
        self.device, self.dtype = checked_device(device, dtype)
        if threads is not None:
            threads = whole("threads", threads, 1, MAX_THREADS)
        run_limit_s = real("run_limit_s", run_limit_s, above=0.0)
        if profile_to is not None and self.dtype is not None:
            raise InputError("profile_to: ONNX Runtime's profile is of a CPU; take torch.profiler on a GPU")
        if profile_to is not None and not (profile_to := file_path("profile_to", profile_to)).is_dir():
            raise InputError(f"profile_to: expected a folder, got {excerpt(profile_to)}; create it first")
        self.path = file_path("path", path)
        self._absolute = str(self.path.absolute())  # a process that runs in another folder may unpickle it
        self.name = self.path.stem
        self._threads = usable_cores() if threads is None else threads
        self._spin = spin
        self._profiled = profile_to is not None
        self._checkpoint = Checkpoint.open(self.path)
        if check is not None:
            check(self._checkpoint)
        self.inputs = self._checkpoint.inputs
        self.outputs = self._checkpoint.outputs
        self.levels = self._checkpoint.levels
        self.reroutes = self._checkpoint.reroutes
        self.rows = self._checkpoint.rows
        self.state = self._checkpoint.state
        self._gpu: GpuEngine | None = None
        self._segments: dict[str, Any] = {}
        self._ort: Engine | None
        if self.dtype is not None:
            self._gpu, facts = open_on_gpu(self._checkpoint, self.device, self.dtype)
            self._ort = self._gpu
        else:
            built, facts = open_ort(self._checkpoint, self._threads, profile_to, spin=spin)
            check_exchangeable(self.path.name, (*self.inputs, *self.outputs))
            self._segments = segment_feeds(self._checkpoint, built)
            self._ort = self._bound(built)
        self.decides = facts.decides
        self._file_guard = FileGuard(self._checkpoint.file)
        self._runs = Runs(run_limit_s)
        self._local = threading.local()
        self._lock = threading.Lock()  # taken twice per run, without the condition's functions in Python
        self._idle = threading.Condition(self._lock)
        self._rebuilding = threading.Lock()
        self._running = 0
        self._resident_level = 0
        self._shrinks = False
        self._inherited = False
        heed_forks(self)

    @property
    def spin(self) -> bool:
        """Whether its threads wait awake for the next layer."""
        return self._spin

    @property
    def threads(self) -> int:
        """Threads of one run.

        Setting it loads the graph again, in the caller's thread and over the same weights. Runs under way end with the
        old threads. Where setting raises (InputError, CheckpointError, UnavailableError when closed) the old ones stay.
        """
        return self._threads

    @threads.setter
    def threads(self, threads: int) -> None:
        threads = whole("threads", threads, 1, MAX_THREADS)
        if self._gpu is not None:
            raise InputError(f"threads: {self.path.name} runs on {self.device}; a CPU has threads")
        if self._profiled:
            raise InputError(
                f"threads: {self.path.name} is being profiled with {self._threads}; open it again to profile {threads}"
            )
        with self._rebuilding:
            if threads == self._threads:
                return
            self._begin()  # so that close() does not close the file meanwhile
            try:
                built, _ = open_ort(self._checkpoint, threads, None, spin=self._spin)
                with self._idle:
                    if self._ort is None:
                        raise UnavailableError(f"{self.path.name}: this session is closed")
                    self._ort, self._threads = self._bound(built), threads
            finally:
                self._end()

    @property
    def digest(self) -> str:
        """Digest of the graph and of all segments, from the metadata; equal for files that compute the same."""
        metadata = self._checkpoint.metadata
        digests = (metadata.graph_sha256, *(level.sha256 for level in metadata.levels))
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    @property
    def isa(self) -> str:
        """The instruction set that the kernels use."""
        return str(library.isa())

    @property
    def int8_isa(self) -> str | None:
        """That of the kernels of int8 layers; None where the model has none."""
        scaled = any(layer.value_type.scaled for layer in self._checkpoint.layers)
        return str(library.isa(INT8)) if scaled else None

    @property
    def resident_level(self) -> int:
        """The densest level whose weights may be in memory: the densest that ran since this was last set.

        Setting it gives memory back to the system: the pages of the levels above at once, and ONNX Runtime's buffers at
        the end of the next run. A denser level can still run afterwards: its pages are read from the file again. -1 is
        the densest.
        """
        return self._resident_level

    @resident_level.setter
    def resident_level(self, level: int) -> None:
        self._resident_level = resolve_level(level, len(self.levels))
        self._checkpoint.release_above(self._resident_level)
        self._shrinks = True
        return_freed()

    def resident_bytes(self) -> tuple[int, ...] | None:
        """Bytes in this process's memory of what each level adds to the file; None where the system does not tell.

        On a GPU the bytes of its memory that each level takes.

        Level 0 counts with the header and the graph before it.
        """
        if self._gpu is not None:
            return self._gpu.level_nbytes
        data = self._checkpoint.file.data
        segments = [self._checkpoint.segment(level.index) for level in self.levels]
        ends = [segment.ctypes.data + segment.nbytes - data.ctypes.data for segment in segments]
        resident = [resident_bytes(data[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
        known = tuple(nbytes for nbytes in resident if nbytes is not None)
        return known if len(known) == len(resident) else None

    def run(self, inputs: Arrays, level: int | LevelCell = -1, guard: Guard | None = None) -> dict[str, Array]:
        """The outputs, by name, at `level` (-1 is the densest), or at what a LevelCell holds while it runs.

        guard: armed for this level, lowers the run where it would miss its deadline; it says afterwards where.
        Raises InputError (nothing is cast or reshaped), LevelError, KernelError, OutOfMemoryError, StuckError (it was
        ended), and UnavailableError when closed, in a forked child, or when the file was written to in place.
        """
        arrays = check_inputs(self.inputs, inputs)
        if guard is None:
            return self._run(arrays, self._cell(level))
        with self._guarded_cell(level, guard) as cell:
            return self._run(arrays, cell)

    def _run(self, arrays: dict[str, Array], cell: LevelCell) -> dict[str, Array]:
        session, started = self._begin(), cell.value
        try:
            if started > self._resident_level:
                self._resident_level = started
            self._file_guard.check()
            run = self._runs.begin()
            try:
                if self._shrinks:
                    self._shrinks = False
                    shrink_after(run.options)
                with denormals_flushed():
                    results = session.run(arrays, cell, run.options)
            except Exception as error:  # ONNX Runtime's errors have no common base
                raise self._fault(error, started, arrays, run) from error
            finally:
                self._runs.end(run)
            self._file_guard.check()
        finally:
            self._end()
        return dict(zip(session.names, results, strict=True))

    def stop_run(self, thread: int, begun_before_s: float) -> None:
        """End the run of `thread` if it began at `begun_before_s` or earlier. It then raises StuckError in its thread.

        thread: ident of the thread that called run(). begun_before_s: reading of the monotonic clock. The run ends
        before its next operator; an operator that does not return cannot be ended.
        """
        self._runs.stop(thread, begun_before_s)

    def forget(self) -> None:
        """As Inheritable. ONNX Runtime's threads exist in the parent only; its session would wait for them."""
        if self._ort is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._ort))  # so the session never ends here
        self._ort, self._inherited = None, True
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._rebuilding = threading.Lock()
        self._running = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, (self._absolute, self._options(), self.digest)

    def _options(self) -> dict[str, Any]:
        own = {"threads": self._threads, "spin": self._spin, "run_limit_s": self._runs.limit_s}
        return {**own, "device": self.device, "dtype": self.dtype}

    def close(self) -> None:
        """Wait for the runs under way, then close the file and free the memory. May be called again."""
        if self._inherited:
            return
        with self._idle:
            session, self._ort = self._ort, None
            self._idle.wait_for(lambda: self._running == 0)
        if session is not None:
            session.close()
            self._segments.clear()
            self._file_guard.close()
            self._checkpoint.close()
            del session
            ARENA.give_back()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _bound(self, built: Any) -> BoundSession:
        return BoundSession(built, self._segments, self.inputs, self.outputs)

    def _fault(self, error: Exception, level: int, arrays: Arrays, run: Run) -> Exception:
        """The error of ours that stands for an error of ONNX Runtime."""
        where = f"{self.path.name}: level {level}"
        text = excerpt(error, MESSAGE_CHARACTERS)
        if run.stopped:
            return StuckError(f"{where}: the run was ended after {time.monotonic() - run.begun_s:.1f} s")
        if isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
            self._shrinks = True  # so that the arena does not keep what this run had allocated
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
            return OutOfMemoryError(
                f"{where}: out of memory with {shapes}; send a smaller batch or allow a lower level"
            )
        if unequal := unequal_batches(self.inputs, arrays):
            return InputError(f"{where}: {unequal} ({text})")
        kind = InputError if isinstance(error, InvalidArgument | InputError) else KernelError
        return kind(f"{where}: {text}")

    def _guarded_cell(self, level: int | LevelCell, guard: Guard) -> AbstractContextManager[LevelCell]:
        if self._gpu is not None:
            raise InputError("guard: operators on a CPU lower a guarded run; on a GPU lower a LevelCell")
        if not callable(getattr(guard, "running", None)):
            raise InputError(f"guard: expected a RouteGuard, got {shown(guard)}")
        if isinstance(level, LevelCell):
            raise InputError("a guarded run lowers its own level: give it a level, not a LevelCell")
        return guard.running(resolve_level(level, len(self.levels)), len(self.levels))

    def _cell(self, level: int | LevelCell) -> LevelCell:
        if isinstance(level, LevelCell):
            if level.value >= len(self.levels):
                raise LevelError(f"{self.path.name}: level {level.value} is out of range 0 to {len(self.levels) - 1}")
            return level
        index = resolve_level(level, len(self.levels))
        cell: LevelCell | None = getattr(self._local, "cell", None)
        if cell is None:
            cell = self._local.cell = LevelCell(index)
        cell.reset(index)
        return cell

    def _begin(self) -> Engine:
        """The graph and its weights, which stays open until _end(). Raises UnavailableError."""
        with self._lock:
            session = self._ort
            if self._inherited:
                raise UnavailableError(
                    f"{self.path.name}: this session was opened before the process forked, and its threads exist in "
                    "the parent only; open the file again in this process, or pickle the session to it"
                )
            if session is None:
                raise UnavailableError(f"{self.path.name}: this session is closed")
            self._running += 1
        return session

    def _end(self) -> None:
        with self._lock:
            self._running -= 1
            if self._ort is None and not self._running:  # close() waits
                self._idle.notify_all()


def _open_again(path: str, options: dict[str, Any], digest: str) -> Session:
    """The pickled session, in another process. Raises CheckpointError, also where the path has another model now."""
    session = Session(path, **options)
    if session.digest != digest:
        session.close()
        raise CheckpointError(
            f"{path}: is not the model that it was when the session was pickled; open it by its path, or put the old "
            "model back"
        )
    return session
