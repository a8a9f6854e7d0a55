"""Watch: the display while a scripted server starts and stops."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator

import pytest

from nested_sparse.errors import UnavailableError
from nested_sparse.serving.top.counts import Counts, MetricCounts, ModelCounts
from nested_sparse.serving.top.watch import watch


def counts(time_s: float, answered: int, note: str = "") -> Counts:
    told = MetricCounts({"ok": answered}, {0: answered // 2, 3: answered - answered // 2}, slowdown=1.5, queue_length=2)
    return Counts(time_s, "nested-sparse 1", "ready", (ModelCounts("net", answered=answered, metrics=told),), note)


LOST = UnavailableError("no inference server answers at h:1 (gone)")


class Script:
    """A source that reads what it is told to."""

    address = "h:1"

    def __init__(self, *readings: Counts | Exception) -> None:
        self._readings: Iterator[Counts | Exception] = iter(readings)

    def read(self) -> Counts:
        reading = next(self._readings)
        if isinstance(reading, Exception):
            raise reading
        return reading


class Output(io.StringIO):
    """A stream that is a terminal or is none."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 × 24."""
    for name, value in (("TERM", "xterm"), ("NO_COLOR", ""), ("COLUMNS", "80"), ("LINES", "24")):
        monkeypatch.setenv(name, value)


def shown(*readings: Counts | Exception, terminal: bool = False, **options: object) -> str:
    """The text that is written for these readings."""
    text = Output(terminal)
    slept: list[float] = []
    watch(Script(*readings), text, interval_s=0.5, refreshes=len(readings) - 1, sleep=slept.append, **options)  # type: ignore[arg-type]
    assert slept == [0.5] * (len(readings) - 1)
    return text.getvalue()


def test_a_refresh_in_80_columns() -> None:
    """Rates, levels with their shares, queue, slowdown; nothing cut."""
    text = shown(counts(0, 0), counts(2, 40, note="a note"))
    for part in ("h:1  nested-sparse 1  ready  last 2.0 s", "20.0/s", "in time 100.0 %", "0: 50 %  3: 50 %"):
        assert part in text
    for part in ("2 waiting", "slowdown 1.50", "0 shed", "a note", "█" * 24):
        assert part in text
    assert "…" not in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_names_are_no_markup() -> None:
    """A model called [red] is shown as such."""
    reading = Counts(1, "s", "ready", (ModelCounts("[red]m", "[bold]"),), "[/]")
    text = shown(reading, reading)
    for part in ("[red]m", "[bold]", "[/]"):
        assert part in text


def test_names_do_not_steer_the_terminal() -> None:
    """A foreign server's name, its models', their states and its notes."""
    hostile = "\x1b[2J\x1b]0;title\x07\r\nforged" + 50_000 * "x"
    reading = Counts(1, hostile, hostile, (ModelCounts(hostile, hostile),), hostile)
    text = shown(reading, reading, UnavailableError(hostile))
    assert text.replace("\n", "").count(r"\x1b[2J\x1b]0;title\x07\r\nforged") == 11
    assert all(line.isprintable() for line in text.split("\n"))
    assert len(text) < 10_000
    drawn = re.sub(r"\x1b\[(\d+A|J|\?7[lh]|[\d;]+m)|\r", "", shown(reading, reading, LOST, terminal=True))
    assert "forged" in drawn
    assert all(line.isprintable() for line in drawn.split("\n"))


@pytest.mark.parametrize("terminal", [False, True])
def test_a_server_that_goes_away_and_comes_back(terminal: bool) -> None:
    """The loss is said with the last reading; after it, rates are of intervals with both ends known."""
    readings = (counts(0, 0), counts(1, 10), LOST, LOST, counts(9, 3), counts(10, 7))
    text = shown(*readings, terminal=terminal)
    assert "unreachable, trying again: no inference server answers at h:1 (gone)" in " ".join(text.split())
    assert "10.0/s" in text
    assert "4.0/s" in text.rpartition("unreachable")[2]
    assert len(re.findall(r"\x1b\[\d+A", text)) == (3 if terminal else 0)  # all but the first replace another


def test_json_is_a_line_per_refresh(capsys: pytest.CaptureFixture[str]) -> None:
    """Losses too; null for what is not known."""
    assert shown(counts(0, 0), counts(2, 40), LOST, counts(5, 0), counts(6, 5), json=True) == ""
    first, lost, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["address"], first["state"], first["seconds"]) == ("h:1", "ready", 2)
    (model,) = first["models"]
    assert (model["per_s"], model["level_shares"], model["queue_ms"]) == (20.0, {"0": 0.5, "3": 0.5}, None)
    known = {"address": "h:1", "server": "", "state": "unreachable", "seconds": 0.0, "note": str(LOST), "models": []}
    assert lost == known
    assert lost.keys() == first.keys()
    assert last["models"][0]["per_s"] == 5.0


def test_no_server_at_first_is_an_error() -> None:
    """A wrong address should not look like a server that is down."""
    with pytest.raises(UnavailableError, match="gone"):
        shown(LOST)
