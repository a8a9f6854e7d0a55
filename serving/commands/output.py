"""The output of the verbs: tables for people, one line of JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from nested_sparse.excerpt import MAX_PARAGRAPH, excerpt


def print_json(value: Any) -> None:
    """Print one line of JSON on stdout, and flush it."""
    print(json.dumps(value, allow_nan=False), flush=True)


def print_line(text: str) -> None:
    """Print one line on stdout; control characters in it are escaped, and it is cut where it is very long."""
    print(excerpt(text, MAX_PARAGRAPH))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table with a title on stdout; columns of numbers are aligned to the right."""
    print_line(title)
    numeric = [bool(rows) and isinstance(rows[0][place], (int, float)) for place in range(len(columns))]
    print(table_text(columns, rows, numeric))


def table_text(columns: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[bool]) -> str:
    """The lines of a table. right: the columns that are aligned to the right."""
    from tabulate import tabulate  # 60 to 80 ms, which the start of a server has no use for

    cells = [[_text(cell) for cell in row] for row in rows]
    sides = ["right" if each else "left" for each in right]
    text: str = tabulate(
        cells, [_text(each) for each in columns], colalign=sides if cells else None, disable_numparse=True
    )
    return text


def _text(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return f"{cell:,}" if isinstance(cell, int) else excerpt(cell)
