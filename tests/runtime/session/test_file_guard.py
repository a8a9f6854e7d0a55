"""File guard: a session whose file is written to in place, with and without the guard."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from nested_sparse.errors import UnavailableError
from nested_sparse.runtime.session.file_guard import FileGuard
from nested_sparse.runtime.session.session import Session
from nested_sparse.runtime.session.tensors import random_inputs
from support import EXAMPLE, mapped


@pytest.fixture
def path(tmp_path: Path) -> Path:
    it = tmp_path / "net.safetensors"
    shutil.copyfile(EXAMPLE, it)
    return it


def leased(path: Path) -> bool:
    file = mapped(path)
    refused = file.guard()
    file.close()
    return not refused


def test_all_levels_outlive_the_file(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Runs go on while the file is emptied; pages that were given back before come from the copy."""
    if not leased(path):
        pytest.skip("the temporary folder's file system grants no leases")
    with Session(path, threads=1) as session:
        inputs = random_inputs(session.inputs, 2)
        expected = [session.run(inputs, level) for level in range(len(session.levels))]
        session.resident_level = 0
        with caplog.at_level(logging.WARNING, "nested_sparse.runtime"):
            os.truncate(path, 0)
        for level, outputs in enumerate(expected):
            for name, array in session.run(inputs, level).items():
                np.testing.assert_array_equal(array, outputs[name])
            session.resident_level = 0
        # the lease ends, and with it the writer's wait, before the line is written
        for _ in range(1200):
            if "was opened for writing" in caplog.text:
                break
            time.sleep(0.05)
        assert "was opened for writing" in caplog.text
    assert path.stat().st_size == 0


@pytest.mark.parametrize("change", ["truncate", "overwrite"])
def test_an_unguarded_session_refuses_a_changed_file(path: Path, change: str) -> None:
    """Without a lease, because the file is open for writing, the call fails with a status, not with SIGBUS."""
    nbytes = path.stat().st_size
    with path.open("r+b", buffering=0) as writer, Session(path, threads=1) as session:
        inputs = random_inputs(session.inputs, 1)
        session.run(inputs, 0)
        time.sleep(0.02)  # file times have the grain of the kernel's tick
        if change == "truncate":
            writer.truncate(100)
        else:
            writer.write(b"\xff" * nbytes)
        for level in range(len(session.levels)):
            with pytest.raises(UnavailableError, match="written to in place"):
                session.run(inputs, level)


def test_no_memory_for_the_copy(path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, tried again, and done when there is memory; meanwhile the writer waits."""
    if not leased(path):
        pytest.skip("the temporary folder's file system grants no leases")
    file = mapped(path)
    before = file.data.tobytes()
    copy, failures, allowed = file._copy, threading.Semaphore(0), threading.Event()

    def scarce() -> None:
        if not allowed.is_set():
            failures.release()
            raise MemoryError("no bytes for a copy")
        copy()

    monkeypatch.setattr(file, "_copy", scarce)
    guard = FileGuard(file, poll_s=0.01)
    writer = threading.Thread(target=os.truncate, args=(path, 0))
    writer.start()
    for _ in range(3):
        assert failures.acquire(timeout=60)
    assert path.stat().st_size == len(before)
    guard.check()  # nothing has changed yet
    allowed.set()
    writer.join(60)
    assert path.stat().st_size == 0
    assert file.data.tobytes() == before
    guard.check()
    assert caplog.text.count("could not be copied") == 1
    guard.close()
    file.close()


def test_a_forgotten_file_is_not_kept_by_its_guard(path: Path) -> None:
    file = mapped(path)
    guard = FileGuard(file, poll_s=0.01)
    reference = weakref.ref(file)
    del file
    end_s = time.monotonic() + 60
    while reference() is not None and time.monotonic() < end_s:
        gc.collect()
        time.sleep(0.01)
    assert reference() is None
    guard.check()
