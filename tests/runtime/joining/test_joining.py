"""may_join: the statement of a file about its rows, and the check of files without one or with a wrong one."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from row_graphs import FLOAT, WIDTH, node, write_rows

from nested_sparse.runtime import Session
from nested_sparse.runtime.joining.joining import may_join
from nested_sparse.tensor_spec import batch_is_free

APART = [node("Softmax", ["z"], ["output"], axis=1)]
MIXED = [node("Softmax", ["z"], ["output"], axis=0)]
SUMMED = [node("ReduceSum", ["z", "axes"], ["output"], keepdims=0)]


class Counted:
    """A session that says how often it ran."""

    def __init__(self, session: Session) -> None:
        self.name, self.rows, self.levels = session.name, session.rows, session.levels
        self.inputs, self.outputs, self.decides = session.inputs, session.outputs, session.decides
        self.runs = 0
        self._session = session

    def run(self, inputs: dict[str, object], level: int) -> dict[str, object]:
        self.runs += 1
        return self._session.run(inputs, level)  # type: ignore[arg-type, return-value]


def joins(path: Path, clock: object = None) -> tuple[bool, int]:
    """Whether requests are joined, and how many runs it took to know."""
    with Session(path, threads=1) as session:
        counted = Counted(session)
        options = {} if clock is None else {"clock": clock}
        return may_join(counted, **options), counted.runs  # type: ignore[arg-type]


def test_a_file_without_a_mark_of_rows_is_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One log line says that it had to be and what came out; its name can be told from it."""
    for nodes, expected, words in ((APART, True, "may run together"), (MIXED, False, "each request runs alone")):
        caplog.clear()
        with caplog.at_level(logging.INFO, "nested_sparse"):
            path = write_rows(tmp_path / "old.safetensors", nodes)
            assert joins(path)[0] is expected
        (line,) = [record.getMessage() for record in caplog.records if "does not say" in record.getMessage()]
        assert line.startswith("old: ")
        assert words in line
        assert "mark_rows" in line


def test_a_mark_is_tried_and_believed_where_there_is_no_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It may be wrong: then a warning says so, and nothing is joined."""
    right = write_rows(tmp_path / "right.safetensors", APART, rows="independent")
    wrong = write_rows(tmp_path / "wrong.safetensors", MIXED, rows="independent")
    whole = joins(write_rows(tmp_path / "unmarked.safetensors", APART))[1]
    caplog.clear()  # that was said, if another test has switched such messages on
    with caplog.at_level(logging.WARNING, "nested_sparse"):
        joined, runs = joins(right)
        assert joined
        assert 0 < runs < whole / 4
        assert not caplog.messages
        assert joins(wrong)[0] is False
    assert "wrong: its file says that its rows are independent, but at level 1" in caplog.text
    ticks = iter(range(0, 100_000, 60))
    assert joins(wrong, clock=lambda: float(next(ticks))) == (True, 0)


def test_a_file_without_a_mark_is_not_joined_where_the_check_has_no_time(tmp_path: Path) -> None:
    """Without time to check the rows, requests are not joined."""
    ticks = iter(range(0, 100_000, 60))
    path = write_rows(tmp_path / "old.safetensors", APART)
    assert joins(path, clock=lambda: float(next(ticks))) == (False, 0)


def test_a_file_that_cannot_be_joined_is_not_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that says that its rows depend on one another, and one whose output has no batch, whatever it says."""
    dependent = write_rows(tmp_path / "dependent.safetensors", MIXED, rows="dependent")
    outputs = {"output": (FLOAT, (WIDTH,))}
    summed = write_rows(tmp_path / "s.safetensors", SUMMED, {"axes": [0]}, outputs=outputs, rows="independent")
    with caplog.at_level(logging.INFO, "nested_sparse"):
        assert joins(dependent) == (False, 0)
        assert joins(summed) == (False, 0)
    assert "dependent: its rows depend on one another" in caplog.text
    with Session(summed, threads=1) as session:
        assert not batch_is_free(session.outputs)
