"""Styled text: lines whose pieces have styles, as plain text and as text with the sequences of a terminal.

It takes no control characters: text from outside passes `nested_sparse.excerpt` first.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from enum import Enum

RESET = "\x1b[0m"
LEAST_COLUMNS = 2
"""Columns of the widest character."""


class Style(Enum):
    """One style; its value is the number that selects it in an escape sequence (ECMA-48, SGR)."""

    BOLD = 1
    DIM = 2
    RED = 31
    GREEN = 32
    YELLOW = 33
    BLUE = 34
    MAGENTA = 35
    CYAN = 36


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of the same styles."""

    text: str
    styles: tuple[Style, ...] = ()

    def ansi(self) -> str:
        """The text between the sequences that begin and end its styles."""
        if not (self.text and self.styles):
            return self.text
        codes = ";".join(str(style.value) for style in self.styles)
        return f"\x1b[{codes}m{self.text}{RESET}"


@dataclass(frozen=True, slots=True)
class Line:
    """Pieces one after the other.

    hanging: columns before its second column. Where the line is folded, its further rows begin there.
    """

    pieces: tuple[Piece, ...] = ()
    hanging: int = 0

    @classmethod
    def of(cls, text: str, *styles: Style) -> Line:
        """A line of one piece."""
        return cls((Piece(text, styles),))

    def plain(self) -> str:
        """The text alone."""
        return "".join(piece.text for piece in self.pieces)

    def ansi(self) -> str:
        """The text with the sequences of its styles, each of which ends within the line."""
        return "".join(piece.ansi() for piece in self.pieces)

    def styled(self, *styles: Style) -> Line:
        """The same line with these styles beside its own."""
        return replace(self, pieces=tuple(Piece(each.text, (*styles, *each.styles)) for each in self.pieces))

    def folded(self, columns: int) -> list[Line]:
        """The line as rows of at most `columns` columns, folded between words where it can be.

        Fewer than 2 columns are taken for 2, which the widest character needs.
        """
        columns = max(columns, LEAST_COLUMNS)
        text = self.plain()
        indent = min(self.hanging, (columns - 1) // 2)  # half of a narrow terminal is left for the text
        end, rest = _break(text, 0, columns, self.hanging)
        rows = [Line(self._between(0, end))]
        while rest < len(text):
            begin = rest
            end, rest = _break(text, begin, columns - indent, begin)
            rows.append(Line((Piece(" " * indent), *self._between(begin, end))))
        return rows

    def reflowed(self, columns: int) -> int:
        """The number of rows that a terminal of `columns` columns makes of the line, which it breaks anywhere."""
        columns = max(columns, LEAST_COLUMNS)
        text = self.plain()
        rows, end = 1, _reach(text, 0, columns)
        while end < len(text):
            rows, end = rows + 1, _reach(text, end, columns)
        return rows

    def _between(self, begin: int, end: int) -> tuple[Piece, ...]:
        """The pieces of the characters from `begin` to `end`."""
        pieces, at = [], 0
        for piece in self.pieces:
            text = piece.text[max(begin - at, 0) : max(end - at, 0)]
            at += len(piece.text)
            if text:
                pieces.append(replace(piece, text=text))
        return tuple(pieces)


def width(text: str) -> int:
    """Columns that a terminal takes for printable text."""
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0  # it is drawn over the character before it
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _reach(text: str, begin: int, columns: int) -> int:
    """The end of the longest part of `text` from `begin` that takes at most `columns` columns."""
    for end in range(begin, len(text)):
        columns -= _columns(text[end])
        if columns < 0:
            return end
    return len(text)


def _break(text: str, begin: int, columns: int, words: int) -> tuple[int, int]:
    """The end of the row that begins at `begin`, and the begin of the next one. Words begin at `words` or later."""
    end = _reach(text, begin, columns)
    if end == len(text):
        return end, end
    space = text.rfind(" ", words + 1, end + 1)
    if space < 0:
        return end, end
    return len(text[:space].rstrip(" ")), len(text) - len(text[space:].lstrip(" "))
