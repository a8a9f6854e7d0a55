"""Command: a command of the command line, whose help tells about its arguments and groups its options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)
WIDTH = 120
"""Columns of the help at most; a narrower terminal's own."""
OPTIONS = "Options"


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
    """As click's."""

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
    """As click's, which cuts the line about a command off at the width of a terminal."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each command with the first sentence of its help."""
        rows = [(name, _first_sentence(self.commands[name].help or "")) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return paragraph.split(". ")[0].removesuffix(".") + "."


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
