"""Flags: the settings as options of the command line, a panel of the help for each table of the file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from nested_sparse.excerpt import excerpt
from nested_sparse.options import options_of

from .setting import Setting, settings_of
from .settings import GROUPS, OWN

PANEL = r"{} (\[{}] in a file)"


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, whose **flags are now one option for each setting, for typer to see."""
    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    command.__signature__ = signature.replace(parameters=[*own, *_options()])  # type: ignore[attr-defined]
    return command


def _options() -> Iterator[inspect.Parameter]:
    for table, group in GROUPS.items():
        keys = options_of(group)
        for name, facts in flags_of(group).items():
            kind, default = _kind(keys[name].annotation), keys[name].default
            flag: Any = kind | None if default is None else kind
            annotation: Any = Annotated[flag, _option(table, facts, kind)]
            yield keys[name].replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation)


def flags_of(group: type) -> dict[str, Setting]:
    """The settings of a group for which there are flags."""
    return {name: facts for name, facts in settings_of(group).items() if facts.flag}


def _option(table: str, facts: Setting, kind: type) -> Any:
    """The typer option. Numbers have their range; a path's type is written as text."""
    bounds = {"min": facts.least, "max": facts.most} if kind in (int, float) else {}
    finite = {name: kind(value) for name, value in bounds.items() if abs(value) != float("inf")}
    metavar = facts.metavar or ("PATH" if kind is Path else None)
    panel = PANEL.format(table.capitalize(), table)
    return typer.Option(help=facts.help, metavar=metavar, rich_help_panel=panel, **finite)


def _kind(annotation: Any) -> Any:
    """The type of the flag's value: of several, the last that is one; "off" or a path is a path."""
    inner = [each for each in get_args(annotation) if isinstance(each, type) and each is not type(None)]
    return inner[-1] if inner else annotation


def given_flags(context: typer.Context, priorities: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The flags that the command line has, as the tables of a file. Raises BadParameter for a wrong --priority."""
    tables: dict[str, dict[str, Any]] = {}
    for table, group in GROUPS.items():
        names = [name for name in flags_of(group) if _was_given(context, name)]
        if names:
            tables[table] = {name: _value(context.params[name]) for name in names}
    if priorities:
        tables[OWN] = _priorities(priorities)
    return tables


def _was_given(context: typer.Context, name: str) -> bool:
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
            raise typer.BadParameter(
                f"expected NAME=N with a whole number, got '{excerpt(text)}'", param_hint="--priority"
            ) from None
    return tables
