"""Rotation: a changed file is read once it rests; one that is wrong leaves the old value in force."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from nested_sparse.errors import ServingError
from nested_sparse.serving.rotation import Rotation


def rotation(path: Path) -> Rotation[str]:
    def read() -> str:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if not text:
            raise ServingError("it is empty")
        return text

    return Rotation("the file", [path], read)


def rename_over(path: Path, text: str) -> None:
    path.with_suffix(".new").write_text(text, encoding="utf-8")
    path.with_suffix(".new").rename(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("one", encoding="utf-8")
    return tmp_path / "file"


def test_a_changed_file_is_read_at_the_second_look(path: Path) -> None:
    it = rotation(path)
    assert not it.look()
    rename_over(path, "two")
    assert not it.look()
    assert it.value == "one"
    assert it.look()
    assert it.value == "two"
    assert not it.look()


def test_a_file_that_is_still_written_is_not_read(path: Path) -> None:
    it = rotation(path)
    for length in range(1, 5):
        path.write_text("t" * length, encoding="utf-8")
        assert not it.look()
    assert it.value == "one"
    assert it.look()
    assert it.value == "tttt"


def test_a_wrong_file_leaves_the_old_value_and_is_logged_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    it = rotation(path)
    path.unlink()
    with caplog.at_level(logging.INFO):
        assert [it.look() for _ in range(5)] == [False] * 5
    assert it.value == "one"
    assert caplog.text.count("stays in force: it is empty") == 1
    rename_over(path, "two")
    it.look()
    assert it.look()
    assert it.value == "two"


def test_a_wrong_file_at_the_start_is_an_error(path: Path) -> None:
    path.write_text("", encoding="utf-8")
    with pytest.raises(ServingError, match="it is empty"):
        rotation(path)
