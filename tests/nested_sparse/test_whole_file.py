"""WholeFile: several writers of one file, and what a killed one leaves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nested_sparse.whole_file import write_whole


def test_several_writers_leave_a_whole_file(tmp_path: Path) -> None:
    """Each of them succeeds; a reader sees the content of one of them, never a mixture, and no other file stays."""
    path = tmp_path / "state"
    contents = [bytes([65 + writer]) * (10_000 + 7_000 * writer) for writer in range(4)]
    write_whole(path, contents[0])

    def write(content: bytes) -> None:
        for _ in range(25):
            write_whole(path, content)
            assert path.read_bytes() in contents

    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(write, contents))
    assert [each.name for each in tmp_path.iterdir()] == ["state"]


def test_the_rest_of_a_killed_writer_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "state.tmp").write_bytes(b"x" * 100)
    write_whole(tmp_path / "state", b"whole")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("state", b"whole")]


def test_an_error_names_the_path_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"old")
    (tmp_path / "state.tmp").mkdir()
    with pytest.raises(OSError, match="state'") as caught:
        write_whole(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
