"""Checked settings: what the dataclasses of settings say when a value is out of range."""

from __future__ import annotations

from nested_sparse.errors import TrainingError
from nested_sparse.excerpt import excerpt


def require(settings: object, field: str, holds: bool, expected: str) -> None:
    """Raise TrainingError naming the class, the field, what was expected and what it got, unless `holds`."""
    if not holds:
        got = getattr(settings, field)
        raise TrainingError(f"{type(settings).__name__}.{field}: expected {expected}, got {excerpt(repr(got))}")


def require_one_of(settings: object, field: str, allowed: tuple[str, ...]) -> None:
    """`require` for a name."""
    require(settings, field, getattr(settings, field) in allowed, f"one of {', '.join(map(repr, allowed))}")


def require_count(settings: object, field: str, least: int = 0) -> None:
    """`require` for a whole number."""
    require(settings, field, is_count(getattr(settings, field), least), f"a whole number >= {least}")


def require_share(settings: object, field: str) -> None:
    """`require` for a number in [0, 1]."""
    require(settings, field, is_number(value := getattr(settings, field)) and 0 <= value <= 1, "in [0, 1]")


def is_count(value: object, least: int = 0) -> bool:
    """Whether `value` is a whole number, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> bool:
    """Whether `value` can be compared with numbers, and is no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)
