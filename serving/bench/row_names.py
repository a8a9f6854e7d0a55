"""Names of rows: the choice of a benchmark's rows by patterns of their names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from nested_sparse.errors import BenchError


def check_names(patterns: Sequence[str], names: Sequence[str]) -> None:
    """Raise BenchError for a pattern that matches none of `names`."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise BenchError(f"no row is called {pattern!r}; there are: {', '.join(names)}")


def is_picked(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of `patterns` matches `name`."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
