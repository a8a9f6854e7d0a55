"""The output of the verbs: tables for people, one line of JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from nested_sparse.excerpt import MAX_PARAGRAPH, excerpt

PIPED_WIDTH = 200
"""Columns where stdout is no terminal; with its default of 80, rich would cut names off."""


def print_json(value: Any) -> None:
    """Print one line of JSON on stdout, and flush it."""
    print(json.dumps(value, allow_nan=False), flush=True)


def print_line(text: str) -> None:
    """Print one line on stdout; control characters in it are escaped, and it is cut where it is very long."""
    print(excerpt(text, MAX_PARAGRAPH))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table with a title on stdout; columns of numbers are aligned to the right."""
    from rich.console import Console  # 40 ms, which the start of a server has no use for
    from rich.markup import escape
    from rich.table import Table

    print_line(title)  # not the table's own title, which would be wrapped at the table's width
    table = Table()
    for index, column in enumerate(columns):
        numeric = bool(rows) and isinstance(rows[0][index], (int, float))
        table.add_column(escape(_text(column)), justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(escape(_text(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else PIPED_WIDTH).print(table)


def _text(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return f"{cell:,}" if isinstance(cell, int) else excerpt(cell)
