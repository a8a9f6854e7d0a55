"""Options: the keywords of a function or a settings class, and the check of a file's values against their types."""

from __future__ import annotations

import difflib
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from .excerpt import MAX_LISTED, excerpt

NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", Path: "a path"}

PLACEHOLDERS = {int: "NUMBER", float: "NUMBER", Path: "PATH"}
"""Words for a value to be filled in, as in --set data.directory=PATH."""


class Problems:
    """The problems of a file of settings, collected so that one message lists all of them.

    set_flag: the flag that gives a value as TABLE.KEY=VALUE, for the advice where one is missing; "": there is none.
    """

    def __init__(self, set_flag: str = "") -> None:
        self.lines: list[str] = []
        self._set_flag = set_flag

    def add(self, table: str, key: str, value: Any, expected: str) -> None:
        """Add the problem that `value` of `key` in `table` is not the `expected` one."""
        self.lines.append(f"[{table}] {key} = {excerpt(toml_text(value))}: expected {expected}")

    def add_unknown(self, place: str, name: str, allowed: Iterable[str]) -> None:
        """Add the problem that `name` is not in `allowed`."""
        self.lines.append(f"{place}: {unknown(name, allowed)}")

    def add_missing(self, table: str, key: str, annotation: Any) -> None:
        """Add the problem that `table` has no `key`, which has to be given."""
        value = PLACEHOLDERS.get(annotation, "VALUE")
        flag = f" or give {self._set_flag} {table}.{key}={value}" if self._set_flag else ""
        self.lines.append(f"[{table}] {key} is missing: expected {expectation(annotation)}; add it to [{table}]{flag}")

    def text(self) -> str:
        """The text after a message's colon: a line for each problem, at most MAX_LISTED."""
        if len(self.lines) == 1:
            return f" {self.lines[0]}"
        more = len(self.lines) - MAX_LISTED
        return "\n  ".join(["", *self.lines[:MAX_LISTED], *([f"and {more} more"] if more > 0 else [])])


def unknown(name: str, allowed: Iterable[str]) -> str:
    """A message that `name` does not exist, with the most similar allowed name and all allowed names."""
    names, name = list(allowed), excerpt(name)
    close = difflib.get_close_matches(name, names, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"there is no '{name}'; {meant}expected one of: {', '.join(names) or '(none)'}"


def toml_text(value: Any) -> str:
    """`value` as written in a TOML file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | Path):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_text, value))}]"
    return repr(value)


def options_of(target: Callable[..., Any], without: Sequence[str] = ()) -> dict[str, inspect.Parameter]:
    """The keywords that `target` takes, with resolved types. without: keywords that a file may not set."""
    try:
        hints = typing.get_type_hints(vars(target).get("__init__", target) if isinstance(target, type) else target)
    except Exception:  # a user's function may name undefined types, or be a callable of another kind
        hints = {}
    taken = {}
    for name, parameter in inspect.signature(target).parameters.items():
        by_name = parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        if by_name and name not in without:
            taken[name] = parameter.replace(annotation=hints.get(name, Any))
    return taken


def takes_any_keyword(target: Callable[..., Any]) -> bool:
    """Whether `target` has **keywords."""
    parameters = inspect.signature(target).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def checked_options(
    table: str,
    given: Mapping[str, Any],
    target: Callable[..., Any],
    problems: Problems,
    without: Sequence[str] = (),
    supplied: Sequence[str] = (),
) -> dict[str, Any]:
    """`given` as `target`'s keywords, lists as tuples; values that do not fit are added to `problems`.

    without: keywords that a file may not set. supplied: keywords that may be missing, because they come from elsewhere.
    """
    taken, checked = options_of(target, without), {}
    for key, value in given.items():
        if key in taken:
            try:
                checked[key] = converted(value, taken[key].annotation)
            except ValueError:
                problems.add(table, key, value, expectation(taken[key].annotation))
        elif takes_any_keyword(target):
            checked[key] = value
        else:
            problems.add_unknown(f"[{table}]", key, taken)
    for key, parameter in taken.items():
        if key not in (*given, *supplied) and parameter.default is inspect.Parameter.empty:
            problems.add_missing(table, key, parameter.annotation)
    return checked


def converted(value: Any, annotation: Any) -> Any:
    """`value` as the type `annotation`: whole numbers as floats, lists as tuples. Raises ValueError if it does not fit.

    A value for a type that TOML cannot express is returned unchecked.
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _first_that_fits(value, inner)
    if origin is typing.Literal:
        return _checked(value, value in inner)
    if origin is tuple and inner[-1:] != (Ellipsis,):
        _checked(value, isinstance(value, list | tuple) and len(value) == len(inner))
        return tuple(converted(item, each) for item, each in zip(value, inner, strict=True))
    if origin in (tuple, list, Sequence):
        _checked(value, isinstance(value, list | tuple))
        return tuple(converted(item, inner[0]) for item in value)
    if annotation is float:
        return float(_checked(value, _is_number(value) and math.isfinite(value)))
    if annotation is int:
        return _checked(value, isinstance(value, int) and not isinstance(value, bool))
    if annotation is Path:
        return Path(_checked(value, isinstance(value, str | Path)))
    if annotation in (bool, str):
        return _checked(value, isinstance(value, annotation))
    if annotation is type(None):
        return _checked(value, value is None)
    return value


def expectation(annotation: Any) -> str:
    """A description of the values that `converted` accepts."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(expectation(each) for each in inner if each is not type(None))
    if origin is typing.Literal:
        return f"one of: {', '.join(map(str, inner))}"
    if origin is tuple and inner[-1:] != (Ellipsis,):
        return f"a list of {len(inner)}: {', '.join(map(expectation, inner))}"
    if origin in (tuple, list, Sequence):
        return f"a list, each {expectation(inner[0])}"
    return NAMES.get(annotation, "a value")


def _first_that_fits(value: Any, annotations: Sequence[Any]) -> Any:
    for annotation in annotations:
        try:
            return converted(value, annotation)
        except ValueError:
            continue
    raise ValueError


def _checked(value: Any, holds: bool) -> Any:
    if not holds:
        raise ValueError
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
