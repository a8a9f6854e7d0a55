"""Screen: the rows that a terminal shows after texts of several heights and changes of its size."""

from __future__ import annotations

import fcntl
import io
import os
import re
import struct
import termios
from collections.abc import Iterator
from contextlib import closing

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nested_sparse.serving.top.rates import ModelRates, Rates
from nested_sparse.serving.top.screen import Screen, terminal_size
from nested_sparse.serving.top.styled import Line, Style, width
from nested_sparse.serving.top.view import as_text

TOKEN = re.compile(r"\x1b\[(\??\d*(?:;\d+)*)([A-Za-z])|[\r\n]|[^\x00-\x1f\x7f]")


class Terminal(io.StringIO):
    """A small terminal. It refuses every control sequence but those that `top` has a use for.

    reflows: whether a narrower terminal folds what it shows; else it cuts it. double: characters that it draws two
    columns wide, against Unicode's tables.
    """

    def __init__(self, columns: int, lines: int, *, reflows: bool = True, double: str = "") -> None:
        super().__init__()
        self._reflows = reflows
        self._double = double
        self._rows: list[list[str]] = [[]]  # a cell is a character with its marks; the second of a wide one is empty
        self._y = self._x = 0
        self._wraps = True
        self.styles: list[str] = []
        self.resize(columns, lines)

    def isatty(self) -> bool:
        return True

    def resize(self, columns: int, lines: int) -> None:
        """As a user does it."""
        os.environ.update(COLUMNS=str(columns), LINES=str(lines))  # `environment` restores them
        self.columns, self.lines = columns, lines
        folded = [self._fold(row) for row in self._rows]
        self._y = sum(len(each) for each in folded[: self._y])
        self._rows = [row for each in folded for row in each]
        self._scroll()

    def shown(self) -> list[str]:
        """The rows from the top of the screen down to the cursor's; those below must be empty."""
        assert not any(map(any, self._rows[self._y + 1 :]))
        return ["".join(row).rstrip() for row in self._rows[: self._y + 1]]

    def write(self, text: str) -> int:
        at = 0
        while at < len(text):
            token = TOKEN.match(text, at)
            assert token is not None, f"refused: {text[at : at + 10]!r}"
            at = token.end()
            if token[2]:
                self._obey(token[1], token[2])
            elif token[0] in "\r\n":
                self._x = 0
                if token[0] == "\n":
                    self._next_row()
            else:
                self._put(token[0])
        return len(text)

    def _obey(self, numbers: str, command: str) -> None:
        if command == "m":
            self.styles.append(numbers)
        elif command == "A":
            self._y = max(self._y - max(int(numbers), 1), 0)
        elif (numbers, command) == ("", "J"):
            self._rows[self._y :] = [self._rows[self._y][: self._x]]
        else:
            assert (numbers, command) in (("?7", "h"), ("?7", "l")), f"refused: {numbers}{command}"
            self._wraps = command == "h"

    def _put(self, character: str) -> None:
        columns = 2 if character in self._double else width(character)
        row = self._rows[self._y]
        if columns == 0:
            if self._x:
                row[self._x - 1] += character
            return
        if self._x + columns > self.columns:
            if self._wraps:
                self._next_row()
                self._x = 0
            else:
                self._x = max(self.columns - columns, 0)
        row = self._rows[self._y]
        row[self._x :] = [character, *[""] * (columns - 1)][: self.columns]
        self._x = len(row)

    def _next_row(self) -> None:
        self._y += 1
        if self._y == len(self._rows):
            self._rows.append([])
        self._scroll()

    def _scroll(self) -> None:
        gone = max(self._y + 1 - self.lines, 0)
        self._rows = self._rows[gone:][: self.lines]
        self._y -= gone

    def _fold(self, row: list[str]) -> list[list[str]]:
        if not self._reflows:
            return [row[: self.columns]]
        rows: list[list[str]] = [[]]
        for at, cell in enumerate(row):
            needed = 2 if row[at + 1 : at + 2] == [""] else 1
            if cell and len(rows[-1]) + needed > self.columns:
                rows.append([])
            rows[-1].append(cell)
        return rows


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal with colours."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name in ("COLUMNS", "LINES"):  # those of a Terminal
        monkeypatch.setenv(name, "1")


def text_of(*lines: str) -> list[Line]:
    return [Line.of(each, Style.BOLD) for each in lines]


@pytest.mark.parametrize("heights", [(2, 5), (5, 2), (3, 3), (1, 0), (9, 2), (2, 9)])
def test_a_text_replaces_the_last_one(heights: tuple[int, int]) -> None:
    """The output above it stays where the screen has room for both; of a higher text the first rows are shown."""
    terminal = Terminal(20, 7)
    terminal.write("$ top\n")
    screen = Screen(terminal)
    for name, height in zip("ab", heights, strict=True):
        screen.draw(text_of(*(f"{name}{row}" for row in range(height))))
    above = ["$ top"] if max(heights) < 6 else []
    assert terminal.shown() == [*above, *(f"b{row}" for row in range(min(heights[1], 6))), ""]


def test_a_narrower_and_lower_terminal_shows_the_new_text_alone() -> None:
    """The last text was folded by the terminal; the new one is folded between words, and cut below."""
    terminal = Terminal(40, 16)
    terminal.write("$\n")
    screen = Screen(terminal)
    screen.draw(text_of("one two three four five six seven", "a", "漢字 " * 9))
    terminal.resize(11, 16)
    screen.draw(text_of("one two three four", "b"))
    assert terminal.shown() == ["$", "one two", "three four", "b", ""]
    terminal.resize(5, 4)
    screen.draw(text_of("one two three four", "c"))
    assert terminal.shown() == ["one", "two", "three", ""]
    terminal.resize(40, 10)
    screen.draw(text_of("one two three four", "d"))
    assert terminal.shown() == ["one two three four", "d", ""]


words = st.text(st.sampled_from("ab  █漢\u0301"), max_size=30)
draws = st.lists(st.tuples(st.lists(words, max_size=9), st.integers(2, 30), st.integers(2, 12)), min_size=1, max_size=5)


@given(draws, st.booleans())
def test_any_texts_on_a_terminal_of_any_size(draws: list[tuple[list[str], int, int]], reflows: bool) -> None:
    """After each draw: a part of the output before, and the rows of the text that fit."""
    terminal = Terminal(30, 12, reflows=reflows)
    terminal.write("$\n$\n")
    screen = Screen(terminal)
    for texts, columns, lines in draws:
        terminal.resize(columns, lines)
        text = text_of(*texts)
        screen.draw(text)
        rows = [row.plain().rstrip() for line in text for row in line.folded(columns)][: lines - 1]
        shown = terminal.shown()
        begin = len(shown) - len(rows) - 1
        assert [each.lstrip("\u0301") for each in shown[begin:]] == [*(row.lstrip("\u0301") for row in rows), ""]
        assert shown[:begin] in (["$"] * kept for kept in range(3))


def test_characters_of_another_width_do_not_wrap() -> None:
    """A Chinese terminal draws the bar's blocks two columns wide: a row too wide is cut, and no row is left behind."""
    terminal = Terminal(30, 10, double="█")
    terminal.write("$\n")
    screen = Screen(terminal)
    for name in "ab":
        screen.draw(text_of(name, "█" * 24, name))
        assert terminal.shown() == ["$", name, "█" * 15, name, ""]
    terminal.write(40 * "x")
    assert terminal.shown()[-2:] == [30 * "x", 10 * "x"]  # it wraps again for the programs that come after


HOSTILE = "\x1b[2J\x1b]0;title\x07\r\n\u202eforged\u009b1A" + "漢e\u0301\u20dd" * 20


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (31, 50), (12, 10), (2, 3), (1, 1)])
def test_a_hostile_server_does_not_steer_the_terminal(columns: int, lines: int) -> None:
    """The terminal refuses any sequence but ours."""
    terminal = Terminal(columns, lines)
    screen = Screen(terminal)
    model = ModelRates(HOSTILE, HOSTILE, 1.0, None, None, None, level_shares={0: 1.0})
    for lost in ("", HOSTILE, ""):
        screen.draw(as_text("h:1", Rates(HOSTILE, HOSTILE, 1.0, (model,), HOSTILE), lost))
        assert len(terminal.shown()) <= lines
    shown = "".join(terminal.shown()).replace(" ", "")
    assert shown.startswith(r"h:1\x1b[2J\x1b]0;title\x07\r\n\u202eforged\x9b1A"[: max((columns * (lines - 1)) // 2, 0)])


class Piped(io.StringIO):
    """A stream that is no terminal, or says that it is one."""

    def __init__(self, terminal: bool = False) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "dumb"])
def test_elsewhere_the_texts_stand_one_below_the_other(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    """Without styles, and not folded."""
    if terminal:
        monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "20")
    out = Piped(terminal)
    screen = Screen(out)
    screen.draw(text_of("word " * 100, "a"))
    screen.draw(text_of("b"))
    assert out.getvalue() == "word " * 100 + "\na\nb\n"


@pytest.mark.parametrize(("value", "styles"), [(None, ["1", "0"] * 2), ("", ["1", "0"] * 2), ("1", [])])
def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch, value: str | None, styles: list[str]) -> None:
    """An empty value means nothing (no-color.org); the text is replaced all the same."""
    if value is not None:
        monkeypatch.setenv("NO_COLOR", value)
    terminal = Terminal(20, 5)
    screen = Screen(terminal)
    screen.draw(text_of("a"))
    screen.draw(text_of("b"))
    assert terminal.shown() == ["b", ""]
    assert terminal.styles == styles


@pytest.fixture
def pseudo_terminal() -> Iterator[int]:
    """The file descriptor of the program's side."""
    ours, its = os.openpty()
    yield its
    os.close(ours)
    os.close(its)


def test_the_size_is_the_terminals_own(pseudo_terminal: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one is seen at once. A serial line that does not know its size takes that of COLUMNS and LINES."""
    monkeypatch.setenv("COLUMNS", "91")
    monkeypatch.setenv("LINES", "17")
    with closing(os.fdopen(os.dup(pseudo_terminal), "w")) as out:
        for lines, columns, expected in ((30, 70, (70, 30)), (3, 5, (5, 3)), (0, 0, (91, 17))):
            fcntl.ioctl(pseudo_terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            assert terminal_size(out) == expected
    assert terminal_size(out) == (91, 17)
    assert terminal_size(io.StringIO()) == (91, 17)
