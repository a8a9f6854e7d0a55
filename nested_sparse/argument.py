"""Argument: what a caller gives, checked where it comes in, so that no library stumbles over it later."""

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
    """`value` as an int: a whole number of Python's or numpy's from `least` to `most`, no bool and no float.

    Raises `error`, naming the argument `name`.
    """
    number = as_whole(value)
    if number is None or number < least or (most is not None and number > most):
        upper = "" if most is None else f" and at most {most}"
        raise error(f"{name}: expected a whole number of at least {least}{upper}, got {shown(value)}")
    return number


def as_whole(value: object) -> int | None:
    """`value` as an int where it is a whole number, else None. True is none, and 1.0 is a float."""
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
    """`value` as a float: a number of at least `least` and above `above`; infinite where it is, never NaN.

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
    """As `real`, and not infinite."""
    number = real(name, value, least, above=above, error=error)
    if math.isinf(number):
        raise error(f"{name}: expected a finite number, got {shown(value)}")
    return number


def file_path(name: str, value: object) -> Path:
    """`value` as a Path: a text, bytes, or what the os module takes for a path. Raises InputError, naming `name`."""
    try:
        return Path(os.fsdecode(cast("str | bytes", value)))
    except TypeError:
        raise InputError(f"{name}: expected the path of a file, got {shown(value)}") from None


def shown(value: object) -> str:
    """`value` as it would be written in Python, cut and printable; of what cannot be written so, its type."""
    try:
        return excerpt(repr(value))
    except Exception:  # a foreign __repr__, or a number too long for one
        return f"a {type(value).__name__}"


def as_float(value: object) -> float | None:
    """`value` as a float where it is a number, of Python's, numpy's or a tensor of one, else None. True is none."""
    if isinstance(value, bool | str | bytes | bytearray):
        return None
    try:
        return float(cast(SupportsFloat, value))
    except (TypeError, ValueError):
        return None
    except OverflowError:  # a whole number beyond any float
        return math.inf if cast(int, value) > 0 else -math.inf
