"""Mapped file: writes of another process into it, which end ours with SIGBUS without a guard."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nested_sparse.errors import CheckpointError
from nested_sparse.mapped_file import MappedFile
from support import mapped

BYTES = np.random.default_rng(0).integers(0, 256, 3 * 4096 + 17, dtype=np.uint8).tobytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    it = tmp_path / "mapped.bin"
    it.write_bytes(BYTES)
    return it


def guarded(path: Path) -> MappedFile:
    file = mapped(path)
    if refused := file.guard():
        pytest.skip(f"the temporary folder's file system grants no leases: {refused}")
    return file


def write(path: Path, how: str) -> subprocess.Popen[bytes]:
    """A process that truncates, overwrites or replaces the file."""
    script = {
        "truncate": "os.truncate(path, 1)",
        "overwrite": "file = open(path, 'r+b'); file.write(bytes(9000)); file.flush()",
        "rewrite": "open(path, 'wb').write(b'new')",
        "rename": "open(path + '.new', 'wb').write(b'new'); os.replace(path + '.new', path)",
    }[how]
    return subprocess.Popen([sys.executable, "-c", f"import os, sys; path = sys.argv[1]; {script}", str(path)])


def poll_until_ended(file: MappedFile, writer: subprocess.Popen[bytes]) -> bool:
    """Whether a poll saw the writer."""
    seen = False
    end_s = time.monotonic() + 120
    while writer.poll() is None and time.monotonic() < end_s:
        seen = file.poll() or seen
        time.sleep(0.01)
    assert writer.wait(60) == 0
    return seen


@pytest.mark.parametrize("how", ["truncate", "overwrite", "rewrite"])
def test_a_write_waits_until_the_bytes_are_safe(path: Path, how: str) -> None:
    """The same bytes at the same address, also those never read before, and the writer gets through."""
    file = guarded(path)
    view = file.data[4096:]
    assert poll_until_ended(file, write(path, how))
    assert file.private
    assert path.read_bytes() != BYTES
    assert view.tobytes() == BYTES[4096:]
    file.release(0)  # of a copy nothing may be given back: it would come back as zeros
    assert view.tobytes() == BYTES[4096:]
    assert not file.poll()


def test_a_rename_does_not_wait_for_open_mappings(path: Path) -> None:
    """The rename happens at once, and the mapping shows the old file."""
    file = guarded(path)
    assert write(path, "rename").wait(60) == 0
    assert not file.poll()
    assert not file.private
    assert file.data.tobytes() == BYTES
    assert path.read_bytes() == b"new"


def test_released_pages_come_back(path: Path) -> None:
    file = guarded(path)
    assert file.data.tobytes() == BYTES
    file.release(4096)
    assert file.data.tobytes() == BYTES


def test_closing_lets_writers_through(path: Path) -> None:
    file = guarded(path)
    file.close()
    assert write(path, "rewrite").wait(60) == 0
    assert len(file.data) == 0
    assert file.guard() != ""


def test_a_file_that_somebody_writes_is_not_guarded(path: Path) -> None:
    """The reason is the system's."""
    guarded(path).close()
    with path.open("r+b"):
        assert mapped(path).guard() == os.strerror(11)


def test_written_to_before_the_guard(path: Path) -> None:
    """A file that changes between its check and the guard is refused."""
    guarded(path).close()
    file = mapped(path)
    path.write_bytes(BYTES[:-1])
    with pytest.raises(CheckpointError, match="while it was being opened"):
        file.guard()
    assert write(path, "rewrite").wait(60) == 0


def is_mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system has no /proc/self/maps")
def test_a_closed_file_keeps_no_mapping_but_for_its_views(path: Path) -> None:
    """Also while something still holds it, as garbage in a cycle does until Python finds it."""
    file = mapped(path)
    view = file.data[4096:]
    file.close()
    assert is_mapped(path)
    assert view.tobytes() == BYTES[4096:]
    del view
    assert not is_mapped(path)
    file.release(0)
    assert not file.poll()
