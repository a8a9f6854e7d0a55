"""Fork: children drop inherited objects, and sessions are passed to other processes by pickling."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chain import Written, counting_chain
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError, UnavailableError
from nested_sparse.forked import heed_forks
from nested_sparse.runtime import Session
from nested_sparse.runtime.policy.fixed import FixedPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.resources.governor import Governor
from nested_sparse.runtime.resources.monitor import ResourceMonitor
from nested_sparse.runtime.scheduling.request import Request
from nested_sparse.runtime.scheduling.scheduler import Scheduler
from nested_sparse.runtime.session.watchdog import Watchdog

X = {"input": np.ones((1, 8), np.float32)}
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return counting_chain(tmp_path / "m.safetensors", 2, 8)


def in_child(body: Callable[[], Any], within_s: float = 60.0) -> str:
    """The result of `body` in a forked child, as text, or its exception; the test fails if the child does not end."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            told = str(body())
        except BaseException as error:
            told = f"{type(error).__name__}: {error}"
        os.write(write, told.encode())
        os._exit(0)
    os.close(write)
    end_s = time.monotonic() + within_s
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > end_s:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(read)
            pytest.fail(f"the child had not ended after {within_s} s")
        time.sleep(0.01)
    with os.fdopen(read, "rb") as pipe:
        return pipe.read().decode()


@pytest.mark.parametrize("threads", [1, 2])
def test_inherited_session_says_that_it_cannot_run(written: Written, threads: int) -> None:
    """The error comes at once; ONNX Runtime would wait for threads that do not exist."""
    with Session(written.path, threads=threads) as session:
        before = session.run(X)["output"]
        told = in_child(lambda: session.run(X))
        assert told.startswith("UnavailableError: m.safetensors: this session was opened before the process forked")
        assert in_child(lambda: setattr(session, "threads", 3)).startswith("UnavailableError")
        np.testing.assert_array_equal(session.run(X)["output"], before)


@pytest.mark.skipif(not hasattr(fcntl, "F_GETLEASE"), reason="this system has no leases")
@pytest.mark.parametrize("threads", [1, 2])
def test_closing_in_the_child_leaves_the_lease(written: Written, threads: int) -> None:
    """The lease belongs to parent and child together: its end in the child would be its end in the parent."""
    with Session(written.path, threads=threads) as session:
        file = session._checkpoint.file
        if session._file_guard.unguarded:
            pytest.skip(f"no lease here: {session._file_guard.unguarded}")

        def drop() -> str:
            session.close()
            session.close()
            session._checkpoint.close()
            return "closed"

        assert in_child(drop) == "closed"
        assert fcntl.fcntl(file._fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK
        assert not file.changed
        session.run(X)


def test_an_inherited_session_ends_with_its_last_reference(written: Written) -> None:
    """ONNX Runtime's own end of it would wait for ever."""
    holder = [Session(written.path, threads=2)]
    holder[0].run(X)
    assert in_child(lambda: holder.pop() and "dropped")
    assert in_child(lambda: [holder.clear(), "dropped"][1]) == "dropped"
    holder[0].close()


def test_child_opens_its_own(written: Written) -> None:
    """The same file, while the parent has it open."""
    with Session(written.path, threads=2) as session:
        expected = session.run(X)["output"]

        def own() -> bool:
            with Session(session.path, threads=2) as mine:
                return bool((mine.run(X)["output"] == expected).all())

        assert in_child(own) == "True"


def test_locks_that_were_held_are_free_in_the_child(written: Written) -> None:
    """A fork copies them as other threads hold them."""
    session = Session(written.path, threads=1)
    with session._idle, session._rebuilding, session._checkpoint.file._lock:
        told = in_child(lambda: [session.close(), session._checkpoint.close(), "free"][-1])
    assert told == "free"
    session.close()


def test_inherited_scheduler_governor_and_watchdog_end(written: Written) -> None:
    """Without their threads they refuse work, and closing them does not wait."""
    with Session(written.path, threads=1) as session:
        profile = LatencyProfile((1,), [[1.0], [1.0]])
        scheduler = Scheduler(session, profile, FixedPolicy(1, profile), default_slo_ms=60_000.0)
        watchdog = Watchdog(lambda key, elapsed_s: None)
        with Governor(ResourceMonitor(())) as governor:
            assert scheduler.submit(Request(X)).result(60).level.index == 1

            def use() -> str:
                error = scheduler.submit(Request(X)).exception(10)
                scheduler.close()
                scheduler.stats()
                governor.close()
                watchdog.begin("x", 1.0)
                watchdog.end("x")
                watchdog.close()
                return f"{type(error).__name__}: {error}"

            with scheduler._device.lock, watchdog._changed, governor._lock:
                told = in_child(use)
            assert told.startswith("UnavailableError: this scheduler's threads")
            assert scheduler.submit(Request(X)).result(60).level.index == 1
        scheduler.close()
        watchdog.close()


def test_an_inherited_scheduler_without_threads_passes_on_what_its_session_says(written: Written) -> None:
    """The lock that a child gets anew is no hindrance: the request is queued, and the session refuses to run it."""
    with Session(written.path, threads=1) as session:
        profile = LatencyProfile((1,), [[1.0], [1.0]])
        scheduler = Scheduler(session, profile, FixedPolicy(1, profile), default_slo_ms=60_000.0, workers=0)

        def use() -> str:
            future = scheduler.submit(Request(X))
            scheduler.serve_next()
            return type(future.exception(10)).__name__

        assert in_child(use) == "UnavailableError"
        scheduler.close()


def run_pickled(data: bytes, results: Any) -> None:
    session = pickle.loads(data)
    with session:
        results.put((session.threads, session.run(X, 0)["output"].tolist()))


def run_inherited(session: Session, results: Any) -> None:
    try:
        results.put(session.run(X, 0)["output"].tolist())
    except UnavailableError as error:
        results.put(str(error))
    session.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_get_a_session_by_pickling(written: Written, method: str) -> None:
    """The same answers, with as many threads."""
    context = multiprocessing.get_context(method)
    with Session(written.path, threads=2) as session:
        results = context.Queue()
        worker = context.Process(target=run_pickled, args=(pickle.dumps(session), results))
        worker.start()
        threads, output = results.get(timeout=120)
        worker.join(60)
        assert worker.exitcode == 0
        assert threads == 2
        assert output == session.run(X, 0)["output"].tolist()


def test_worker_made_by_fork_is_told(written: Written) -> None:
    """multiprocessing's "fork" hands over the object itself; its worker ends, and the parent goes on."""
    context = multiprocessing.get_context("fork")
    with Session(written.path, threads=2) as session:
        results = context.Queue()
        worker = context.Process(target=run_inherited, args=(session, results))
        worker.start()
        assert "open the file again in this process" in results.get(timeout=60)
        worker.join(60)
        assert worker.exitcode == 0
        session.run(X)


def test_another_model_under_the_path_is_noticed(written: Written, tmp_path: Path) -> None:
    """A pickle names a path: what lies there must compute the same."""
    with Session(written.path, threads=1) as session:
        data = pickle.dumps(session)
    other = counting_chain(tmp_path / "other.safetensors", 3, 8).path
    os.replace(other, written.path)
    with pytest.raises(CheckpointError, match="is not the model that it was when the session was pickled"):
        pickle.loads(data)
    written.path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        pickle.loads(data)


def test_pickled_path_is_absolute(written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker may have another working directory, and so may this process by then."""
    monkeypatch.chdir(tmp_path)
    with Session("m.safetensors", threads=1) as session:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        with pickle.loads(pickle.dumps(session)) as again:
            assert again.run(X)["output"].shape == (1, 8)


def test_whatever_heeds_forks_is_told_in_the_child_only() -> None:
    """The call comes only while the object lives."""

    class Heeding:
        told = 0

        def forget(self) -> None:
            self.told += 1

    heeding = Heeding()
    heed_forks(heeding)
    assert in_child(lambda: heeding.told) == "1"
    assert heeding.told == 0


def test_mapped_files_without_a_session(written: Written, tmp_path: Path) -> None:
    """An inherited Checkpoint reads on, and is closed without the parent's knowing."""
    copy = shutil.copy(written.path, tmp_path / "copy.safetensors")
    with Checkpoint.open(copy) as checkpoint:
        assert not checkpoint.file.guard() or sys.platform != "linux"

        def read() -> int:
            size = checkpoint.segment(1).nbytes
            checkpoint.close()
            return size

        assert in_child(read) == str(checkpoint.segment(1).nbytes)
        assert checkpoint.file._leased == (fcntl.fcntl(checkpoint.file._fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK)


ENDING = """
import os, sys
import numpy as np
from nested_sparse.runtime import Session
session = Session(sys.argv[1], threads=2)
session.run({"input": np.ones((1, 8), np.float32)})
child = os.fork()
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
session.run({"input": np.ones((1, 8), np.float32)})
session.close()
print("went on")
"""


def test_child_that_ends_as_programs_do(written: Written) -> None:
    """Not by os._exit: the interpreter ends every object, and ONNX Runtime's would wait for its threads."""
    done = subprocess.run(
        [sys.executable, "-c", ENDING, str(written.path)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
