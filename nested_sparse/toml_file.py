"""TomlFile: a file of settings, read without trust."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from .errors import NestedSparseError
from .excerpt import excerpt
from .regular_file import read_regular

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST_BYTES = 1 << 20


def read_toml(path: Path, error: type[NestedSparseError]) -> dict[str, Any]:
    """The tables of the file. Raises `error`: it cannot be read, is larger than MOST_BYTES, or is not TOML."""
    try:
        content = read_regular(path, MOST_BYTES)
    except OSError as failure:
        raise error(f"{path}: cannot be read ({failure.strerror or failure})") from None
    try:
        return parse_toml(content.decode("utf-8"))
    except ValueError as failure:
        raise error(f"{path}: is not TOML: {excerpt(failure)}") from None


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of `text`. Raises ValueError: it is not TOML, or is nested too deeply for Python."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError(f"nested too deeply: {error}") from None
