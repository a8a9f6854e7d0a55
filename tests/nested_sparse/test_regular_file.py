"""Regular file: a file is read whole up to its bound, and no further."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nested_sparse.regular_file import read_regular


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    """A file of just so many bytes is whole; one byte more is an error that says the bound."""
    path = tmp_path / "file"
    for content in (b"", b"12345"):
        path.write_bytes(content)
        assert read_regular(path, 5) == content
    path.write_bytes(b"123456")
    with pytest.raises(OSError, match="expected at most 5 bytes"):
        read_regular(path, 5)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Nor is a folder read."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="it is not a regular file"):
            read_regular(path, 5)
