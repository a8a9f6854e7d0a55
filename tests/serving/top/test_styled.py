"""Styled text: folding keeps every word and style, and no row is wider than the terminal."""

from __future__ import annotations

import unicodedata

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nested_sparse.serving.top.styled import Line, Piece, Style, width

WIDE, ACUTE, ENCLOSING = "漢", "\u0301", "\u20dd"
texts = st.text(st.sampled_from(["a", "b", " ", " ", "█", WIDE, "Ａ", ACUTE, ENCLOSING]), max_size=40)
pieces = st.builds(Piece, texts, st.lists(st.sampled_from(Style), max_size=2, unique=True).map(tuple))
lines = st.builds(Line, st.lists(pieces, max_size=4).map(tuple), st.integers(0, 20))


def styles_of(rows: list[Line]) -> list[tuple[str, tuple[Style, ...]]]:
    """Each character with its styles, spaces left out."""
    return [(each, piece.styles) for row in rows for piece in row.pieces for each in piece.text if each != " "]


def test_width_is_in_columns() -> None:
    """Wide characters take two, marks over another character none."""
    assert [width(each) for each in ("", "abc", WIDE, "Ａ", f"e{ACUTE}", f"o{ENCLOSING}", "█")] == [0, 3, 2, 2, 1, 1, 1]
    assert unicodedata.combining(ENCLOSING) == 0  # its category alone tells that it takes no column


def test_a_style_ends_with_its_piece() -> None:
    """A line without styles has no escape sequence."""
    line = Line((Piece("a"), Piece("b", (Style.DIM, Style.RED)), Piece("", (Style.BOLD,)), Piece("c", (Style.BOLD,))))
    assert line.ansi() == "a\x1b[2;31mb\x1b[0m\x1b[1mc\x1b[0m"
    assert line.plain() == Line.of("abc").ansi() == "abc"
    assert line.styled(Style.DIM).pieces[0] == Piece("a", (Style.DIM,))


@given(lines, st.integers(1, 30))
def test_rows_fit_and_lose_nothing(line: Line, columns: int) -> None:
    """Only spaces may go at a fold."""
    rows = line.folded(columns)
    assert all(width(row.plain()) <= max(columns, 2) for row in rows)
    assert styles_of(rows) == styles_of([line])


@given(lines)
def test_a_line_that_fits_stays_as_it_is(line: Line) -> None:
    """Its spaces as well."""
    (row,) = line.folded(max(width(line.plain()), 2))
    assert (row.plain(), row.ansi()) == (line.plain(), line.ansi())


@given(lines, st.integers(2, 30))
def test_a_terminal_breaks_anywhere(line: Line, columns: int) -> None:
    """The rows of a line on a terminal that puts one character after the other."""
    rows, column = 1, 0
    for each in line.plain():
        if column + width(each) > columns:
            rows, column = rows + 1, 0
        column += width(each)
    assert line.reflowed(columns) == rows


@pytest.mark.parametrize(
    ("line", "columns", "rows"),
    [
        (Line.of("one two three"), 7, ["one two", "three"]),
        (Line.of("one   two"), 5, ["one", "two"]),
        (Line.of("abcdefgh ij"), 3, ["abc", "def", "gh", "ij"]),
        (Line((Piece("  name  "), Piece("one two")), 8), 12, ["  name  one", "     two"]),
        (Line((Piece("  name  "), Piece("one two three")), 8), 17, ["  name  one two", "        three"]),
        (Line((Piece("  name  "), Piece("x" * 12)), 8), 18, ["  name  " + "x" * 10, "        xx"]),
        (Line((Piece("  name  "), Piece("abc")), 8), 5, ["  nam", "  e", "  abc"]),
        (Line.of(WIDE * 3), 5, [WIDE * 2, WIDE]),
        (Line.of(f"aaa{ACUTE}b"), 3, [f"aaa{ACUTE}", "b"]),
        (Line(), 5, [""]),
    ],
)
def test_folds_between_words_under_the_second_column(line: Line, columns: int, rows: list[str]) -> None:
    """A word that is too long is broken; on a narrow terminal the second column begins further left."""
    assert [row.plain() for row in line.folded(columns)] == rows
