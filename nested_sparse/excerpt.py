"""Excerpt: text from outside, made safe to repeat in an error message, a log line or on a terminal."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

MAX_CHARACTERS = 200
"""Most characters of one name or value from outside, within a message: enough to recognise it."""
MAX_PARAGRAPH, MAX_LINES = 4000, 100
"""Most characters of a line of an error message on a terminal, and most lines of it."""
MAX_LISTED = 16
"""Most names of a list."""


def excerpt(text: object, limit: int = MAX_CHARACTERS) -> str:
    """`text` as one line of at most `limit` printable characters; of a longer text the middle is cut out.

    Control characters, line ends, escape sequences and lone surrogates are written as Python escapes. So a text from
    outside can neither forge a log line nor send commands to a terminal, and it can be encoded in UTF-8. The part that
    is cut out is not read: the cost does not grow with the text.
    """
    whole = text if isinstance(text, str) else str(text)
    if len(whole) <= limit:
        shown = _printable(whole)
        if len(shown) <= limit:
            return shown
    cut = f"…({len(whole)} characters)…"
    each = max(0, limit - len(cut)) // 2
    begin, end = _printable(whole[:each])[:each], _printable(whole[len(whole) - each :])
    return (begin + cut + end[len(end) - each :])[:limit]


def excerpts(texts: Collection[object], most: int = MAX_LISTED) -> str:
    """An excerpt of each text, in quotes; of more than `most` texts the first `most`, and the number of the others."""
    shown = ", ".join(f"'{excerpt(text)}'" for text in islice(texts, most))
    return f"{shown} and {len(texts) - most} more" if len(texts) > most else shown


def paragraph(text: str, limit: int = MAX_PARAGRAPH) -> str:
    """`text` for a terminal: an excerpt of each line. Lines after the first are indented, to mark one text."""
    lines = text.split("\n", MAX_LINES)[:MAX_LINES]
    return "\n  ".join(excerpt(each.strip(), limit) for each in lines)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)
