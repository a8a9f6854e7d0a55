"""Log: lines for programs, and a bound on the lines of one kind."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.serving.json_log import MAX_TRACE, JsonLog
from nested_sparse.serving.log import limit_lines, use_format
from nested_sparse.serving.log_format import MAX_LINE, LogFormat
from nested_sparse.serving.log_limit import LogLimit

HOSTILE = '\n{"severity": "ERROR"}\x1b[2J\u202e\ud800' + 100_000 * "x"


def record(text: str, *values: object, error: Any = None) -> logging.LogRecord:
    return logging.LogRecord("a.b", logging.WARNING, "b.py", 3, text, values, error)


def test_a_record_is_one_object() -> None:
    made = record("model %s takes %d of %g ms", "net", 3, float("inf"))
    made.created = 1e9 + 0.9996  # rounded up to the next second
    assert json.loads(JsonLog().format(made)) == {
        "time": "2001-09-09T01:46:41.000Z",
        "severity": "WARNING",
        "logger": "a.b",
        "message": "model net takes 3 of inf ms",
        "event": "model %s takes %d of %g ms",
        "values": ["net", 3, "inf"],
    }


@given(st.text(alphabet=st.characters()))
def test_whatever_the_text_a_record_is_one_line_of_ascii(text: str) -> None:
    line = JsonLog().format(record(text))
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["severity"] == "WARNING"


def test_hostile_texts_and_errors_are_bounded() -> None:
    error: BaseException = RuntimeError(HOSTILE)
    for _ in range(60):  # each has the one before as its cause
        error, cause = RuntimeError(HOSTILE), error
        error.__cause__ = cause
    line = JsonLog().format(record(HOSTILE, error=(type(error), error, None)))
    facts = json.loads(line)
    assert line.isascii()
    assert len(facts["message"]) <= MAX_LINE
    assert len(facts["error"]) == MAX_TRACE
    assert facts["error"][-1].startswith(r"RuntimeError: \n{")
    assert all(len(each) <= MAX_LINE for each in facts["error"])


def limited(limit: LogLimit, lines: int, place: int = 1) -> list[logging.LogRecord]:
    """The records that pass, of so many from one place."""
    made = [logging.LogRecord("a", logging.INFO, "a.py", place, f"text {index}", (), None) for index in range(lines)]
    return [each for each in made if limit.filter(each)]


def test_a_place_writes_a_burst_and_then_at_a_rate() -> None:
    now_s = 0.0
    limit = LogLimit(burst=3, lines_per_s=0.5, clock=lambda: now_s)
    assert [each.msg for each in limited(limit, 10)] == ["text 0", "text 1", "text 2"]
    now_s = 1.9
    assert limited(limit, 10) == []
    now_s = 4.1  # two lines are earned
    assert [(each.msg, vars(each)["left_out"]) for each in limited(limit, 10)] == [("text 0", 17), ("text 1", 0)]
    now_s = 1000.0
    assert len(limited(limit, 10)) == 3


def test_places_do_not_take_from_one_another() -> None:
    limit = LogLimit(burst=3, lines_per_s=0.5, clock=lambda: 0.0)
    assert [len(limited(limit, 10, place)) for place in (1, 2, 1)] == [3, 3, 0]


@pytest.mark.parametrize("name", ["text", "json"])
def test_the_log_of_a_server_is_bounded_and_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In both formats; a handler that is not ours, as a program's own, is left alone."""
    text, foreign = io.StringIO(), logging.StreamHandler(io.StringIO())
    handler, logger = logging.StreamHandler(text), logging.getLogger("of this test")
    handler.setFormatter(LogFormat())
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler, foreign])
    now_s = [0.0]
    monkeypatch.setattr("nested_sparse.serving.log.LogLimit", lambda: LogLimit(2, 1.0, lambda: now_s[0]))
    use_format(name)
    limit_lines()
    for index in range(6):
        now_s[0] = 60.0 * (index == 5)
        logger.warning("again %d", index)
    lines = text.getvalue().splitlines()
    assert len(lines) == 3
    assert ("left_out" in lines[2]) == (name == "json")
    if name == "json":
        assert [json.loads(line).get("left_out") for line in lines] == [None, None, 3]
    else:
        assert lines[2].endswith("WARNING again 5 (after 3 more of its kind, which were left out)")
    assert foreign.formatter is None
    assert foreign.filters == []


def test_the_error_that_ends_a_server_is_an_object_too(tmp_path: Path) -> None:
    """And its exit code is as ever."""
    command = [sys.executable, "-m", "nested_sparse.serving", "serve", str(tmp_path / "absent"), "--log-format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    facts = json.loads(done.stderr)
    assert (facts["severity"], facts["message"]) == ("CRITICAL", f"{tmp_path / 'absent'}: no such file")
