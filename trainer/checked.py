"""Checked settings: the range checks that all settings dataclasses share."""

from __future__ import annotations

from nested_sparse.errors import TrainingError
from nested_sparse.excerpt import excerpt


def require(settings: object, field: str, holds: bool, expected: str) -> None:
    """Raise TrainingError unless `holds`. The message names the class, the field, the expected and the given value."""
    if not holds:
        got = getattr(settings, field)
        raise TrainingError(f"{type(settings).__name__}.{field}: expected {expected}, got {excerpt(repr(got))}")


def require_one_of(settings: object, field: str, allowed: tuple[str, ...]) -> None:
    """Raise TrainingError unless the field's value is one of the `allowed` names."""
    require(settings, field, getattr(settings, field) in allowed, f"one of {', '.join(map(repr, allowed))}")


def require_count(settings: object, field: str, least: int = 0) -> None:
    """Raise TrainingError unless the field is a whole number of at least `least`."""
    require(settings, field, is_count(getattr(settings, field), least), f"a whole number >= {least}")


def require_share(settings: object, field: str) -> None:
    """Raise TrainingError unless the field is a number in [0, 1]."""
    require(settings, field, is_number(value := getattr(settings, field)) and 0 <= value <= 1, "in [0, 1]")


def is_count(value: object, least: int = 0) -> bool:
    """Whether `value` is a whole number of at least `least`; a bool is not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> bool:
    """Whether `value` is an int or a float; a bool is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
