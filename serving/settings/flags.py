"""Flags: the settings as options of the command line, a group of the help for each table of the file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import click

from nested_sparse.excerpt import excerpt
from nested_sparse.options import options_of

from ..commands.command import PATH, Number, Option, Whole
from .setting import Setting, settings_of
from .settings import GROUPS, OWN

GROUP = "{} ([{}] in a file)"


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, whose **flags are now one option for each setting."""
    for table, group in reversed(list(GROUPS.items())):
        keys = options_of(group)
        for name, facts in reversed(list(flags_of(group).items())):
            command = _option(table, name, facts, _kind(keys[name].annotation), keys[name].default)(command)
    return command


def flags_of(group: type) -> dict[str, Setting]:
    """The settings of a group for which there are flags."""
    return {name: facts for name, facts in settings_of(group).items() if facts.flag}


def _option(table: str, name: str, facts: Setting, kind: type, default: Any) -> Callable[..., Any]:
    """The decorator that adds the option of a setting. Numbers have their range; a flag has its opposite, too."""
    flag, title = name.replace("_", "-"), GROUP.format(table.capitalize(), table)
    if kind is bool:
        both = f"--{flag}/--no-{flag}"
        return click.option(both, cls=Option, group=title, default=default, help=facts.help)
    values: Any = {Path: PATH, int: Whole, float: Number}.get(kind, kind)
    if kind in (int, float):
        values = values(*(None if abs(bound) == math.inf else kind(bound) for bound in (facts.least, facts.most)))
    return click.option(
        f"--{flag}",
        cls=Option,
        group=title,
        type=values,
        default=default,
        help=facts.help,
        metavar=facts.metavar or None,
    )


def _kind(annotation: Any) -> Any:
    """The type of the flag's value: of several, the last that is one; "off" or a path is a path."""
    inner = [each for each in get_args(annotation) if isinstance(each, type) and each is not type(None)]
    return inner[-1] if inner else annotation


def given_flags(context: click.Context, priorities: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The flags that the command line has, as the tables of a file. Raises BadParameter for a wrong --priority."""
    tables: dict[str, dict[str, Any]] = {}
    for table, group in GROUPS.items():
        names = [name for name in flags_of(group) if _was_given(context, name)]
        if names:
            tables[table] = {name: _value(context.params[name]) for name in names}
    if priorities:
        tables[OWN] = _priorities(priorities)
    return tables


def _was_given(context: click.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _value(given: Any) -> Any:
    return "off" if given == Path("off") else given


def _priorities(texts: Sequence[str]) -> dict[str, Mapping[str, int]]:
    """NAME=N as tables of models."""
    tables: dict[str, Mapping[str, int]] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            tables[name] = {"priority": int(number)}
        except ValueError:
            raise click.BadParameter(
                f"expected NAME=N with a whole number, got '{excerpt(text)}'", param_hint="--priority"
            ) from None
    return tables
