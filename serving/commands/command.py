"""Command: a command of the command line, whose help tells about its arguments and groups its options."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from nested_sparse.excerpt import excerpt, paragraph

PATH = click.Path(path_type=Path)
USAGE_CHARACTERS = 1000
"""Most characters of a message about wrong usage, which repeats what was typed."""
WIDTH = 120
"""Columns of the help at most; a narrower terminal's own."""
OPTIONS = "Options"


class Whole(click.IntRange):
    """A whole number within bounds."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click's, with a message that says the bounds."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"expected a whole number{_bounds(self.min, self.max)}, got '{excerpt(value)}'", param, ctx)


class Number(click.FloatRange):
    """A number within bounds."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click's, which takes NaN to be within any bounds."""
        try:
            number = super().convert(value, param, ctx)
            if not math.isnan(number):
                return number
        except click.BadParameter:
            pass
        self.fail(f"expected a number{_bounds(self.min, self.max)}, got '{excerpt(value)}'", param, ctx)


def _bounds(least: float | None, most: float | None) -> str:
    """The bounds in words, with a space before them; "" where there are none."""
    words = [f"of at {which} {bound}" for which, bound in (("least", least), ("most", most)) if bound is not None]
    return f" {' and '.join(words)}" if words else ""


class Argument(click.Argument):
    """An argument with a line of the help."""

    def __init__(self, *names: Any, help: str, **facts: Any) -> None:
        super().__init__(*names, **facts)
        self.text = help


class Option(click.Option):
    """An option in a group of the help. group: the group's title."""

    def __init__(self, *names: Any, group: str, **facts: Any) -> None:
        super().__init__(*names, **facts)
        self.group = group


class Command(click.Command):
    """As click's, but the help goes to Python's own stdout: an error of writing is one there."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """As click's."""
        return _plain(super().get_help_option(ctx))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The arguments, then the options of each group."""
        arguments = [(each.make_metavar(ctx), each.text) for each in self.params if isinstance(each, Argument)]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl(arguments)
        groups: dict[str, list[tuple[str, str]]] = {OPTIONS: []}
        for each in self.get_params(ctx):
            record = None if isinstance(each, Argument) else each.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(each, "group", OPTIONS), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


class Group(click.Group):
    """As click's, which cuts the line about a command off at the width of a terminal; the help as Command's."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """As click's."""
        return _plain(super().get_help_option(ctx))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each command with the first sentence of its help."""
        rows = [(name, _first_sentence(self.commands[name].help or "")) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _plain(option: click.Option | None) -> click.Option | None:
    """The option --help, printed by Python: click would open a stream of its own where stdout is an ASCII one."""

    def show(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
        if wanted and not ctx.resilient_parsing:
            print(ctx.get_help())
            ctx.exit()

    if option is not None:
        option.callback = show
    return option


def usage_text(error: click.UsageError) -> str:
    """The message about a wrong command line; control characters in it are escaped."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error.message
    text = paragraph(error.format_message(), USAGE_CHARACTERS)
    if error.ctx is None:
        return f"Error: {text}"
    return f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help.\n\nError: {text}"


def _first_sentence(text: str) -> str:
    first = " ".join(text.strip().split("\n\n")[0].split())
    return first.split(". ")[0].removesuffix(".") + "."


def argument(name: str, help: str, **facts: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """As click.argument, with a line of the help."""
    return click.argument(name, cls=Argument, help=help, **facts)


def command_of(name: str, function: Callable[..., Any], kind: type[Command] = Command) -> click.Command:
    """The command `name` that calls `function` with the arguments and options that decorate it."""
    return click.command(name, cls=kind)(function)


def group(name: str, text: str) -> click.Group:
    """A group of commands, whose help begins with `text`. Without a command it shows the help; helps show defaults."""
    settings = {"show_default": True, "max_content_width": WIDTH}
    return Group(name, help=text, no_args_is_help=True, context_settings=settings)
