"""What verbs print: tables for people, one line of JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nested_sparse.excerpt import MAX_PARAGRAPH, excerpt

PIPED_WIDTH = 200
"""Columns when stdout is no terminal: rich would cut names off at 80."""


def print_json(value: Any) -> None:
    """One line on stdout, at once."""
    print(json.dumps(value, allow_nan=False), flush=True)


def print_line(text: str) -> None:
    """One line on stdout, whatever names are in it."""
    print(excerpt(text, MAX_PARAGRAPH))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A titled table on stdout; numbers to the right."""
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
