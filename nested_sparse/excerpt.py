"""excerpt: somebody else's text, safe to repeat in an error message, a log line or a terminal."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

MAX_CHARACTERS = 200
"""Of one foreign name or value inside a message; long enough to recognise it."""
MAX_PARAGRAPH, MAX_LINES = 4000, 100
"""Of a line of an error message on a terminal, and of its lines."""
MAX_LISTED = 16
"""Of many names in a row."""


def excerpt(text: object, limit: int = MAX_CHARACTERS) -> str:
    """`text` in one line of printable characters, at most `limit` of them, the middle cut out where it was longer.

    Control characters, line ends, escape sequences and lone surrogates come out as Python escapes, so that a foreign
    text can neither forge a log line nor steer a terminal, and can be encoded in UTF-8. Only what is kept is looked at:
    the cost does not grow with the text.
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
    """Of each text an excerpt in quotes, of many only the first `most` and how many more there are."""
    shown = ", ".join(f"'{excerpt(text)}'" for text in islice(texts, most))
    return f"{shown} and {len(texts) - most} more" if len(texts) > most else shown


def paragraph(text: str, limit: int = MAX_PARAGRAPH) -> str:
    """`text` for a terminal: an excerpt of each line, all but the first indented, so that none passes for another's."""
    lines = text.split("\n", MAX_LINES)[:MAX_LINES]
    return "\n  ".join(excerpt(each.strip(), limit) for each in lines)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)
