"""Argument: checks of the arguments that a caller passes, made at once, so that no library fails on them later."""

from __future__ import annotations

import math
import operator
import os
from pathlib import Path
from typing import SupportsFloat, SupportsIndex, cast

from .errors import InputError, NestedSparseError
from .excerpt import excerpt


def whole(
    name: str, value: object, least: int, most: int | None = None, error: type[NestedSparseError] = InputError
) -> int:
    """`value` as an int: a whole number of Python or numpy from `least` to `most`; a bool or a float is refused.

    Raises `error`, naming the argument `name`.
    """
    number = as_whole(value)
    if number is None or number < least or (most is not None and number > most):
        upper = "" if most is None else f" and at most {most}"
        raise error(f"{name}: expected a whole number of at least {least}{upper}, got {shown(value)}")
    return number


def as_whole(value: object) -> int | None:
    """`value` as an int where it is a whole number, else None; also None for a bool, and for a float such as 1.0."""
    if type(value) is int:  # nearly always
        return value
    if isinstance(value, bool):
        return None
    try:
        return operator.index(cast(SupportsIndex, value))
    except TypeError:
        return None


def real(
    name: str,
    value: object,
    least: float = -math.inf,
    *,
    above: float = -math.inf,
    error: type[NestedSparseError] = InputError,
) -> float:
    """`value` as a float: a number of at least `least` and above `above`. It may be infinite, but not NaN.

    Raises `error`, naming the argument `name`.
    """
    number = as_float(value)
    if number is None or not (number >= least and (number > above or above == -math.inf)):
        lower = f" above {above:g}" if above > -math.inf else f" of at least {least:g}" if least > -math.inf else ""
        raise error(f"{name}: expected a number{lower}, got {shown(value)}")
    return number


def finite(
    name: str,
    value: object,
    least: float = -math.inf,
    *,
    above: float = -math.inf,
    error: type[NestedSparseError] = InputError,
) -> float:
    """As `real`, but an infinite number is refused."""
    number = real(name, value, least, above=above, error=error)
    if math.isinf(number):
        raise error(f"{name}: expected a finite number, got {shown(value)}")
    return number


def file_path(name: str, value: object) -> Path:
    """`value` as a Path: text, bytes, or another path of the os module. Raises InputError, naming `name`."""
    try:
        return Path(os.fsdecode(cast("str | bytes", value)))
    except TypeError:
        raise InputError(f"{name}: expected the path of a file, got {shown(value)}") from None


def shown(value: object) -> str:
    """An excerpt of `value` as Python writes it; where that fails, the name of its type."""
    try:
        return excerpt(repr(value))
    except Exception:  # a foreign __repr__, or a number too long for one
        return f"a {type(value).__name__}"


def as_float(value: object) -> float | None:
    """`value` as a float where it is a number, or an array or tensor of one; else None, also for a bool."""
    if type(value) is float:  # nearly always
        return value
    if isinstance(value, bool | str | bytes | bytearray):
        return None
    try:
        return float(cast(SupportsFloat, value))
    except (TypeError, ValueError):
        return None
    except OverflowError:  # a whole number larger than any float
        return math.inf if cast(int, value) > 0 else -math.inf
