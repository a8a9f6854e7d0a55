"""Command: the help of arguments, of groups of options and of commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from click.testing import CliRunner

from nested_sparse.serving.commands.command import Option, argument, command_of, group


@argument("file", metavar="FILE", help="The file to read.")
@click.option("--plain", default=3, help="An option of no group.")
@click.option("--first/--no-first", cls=Option, group="One (in a file)", default=False, help="Of the first group.")
@click.option("--second", cls=Option, group="Another", help="Of the second group.")
@click.option("--third", cls=Option, group="One (in a file)", help="Of the first group again.")
def verb(**given: Any) -> None:
    """Do something with a file, and say it: a first sentence
    of two lines. A second one.

    Another paragraph.
    """
    print(sorted(given.items()))


APP = group("app", "All that there is.")
APP.add_command(command_of("verb", verb))


def run(*arguments: str, columns: int = 80) -> str:
    result = CliRunner().invoke(APP, list(arguments), terminal_width=columns)
    assert result.exit_code == (0 if arguments else 2), result.output
    return result.output


def part(text: str, title: str) -> Sequence[str]:
    """The lines of a section of the help."""
    lines = text[text.index(f"{title}:\n") :].split("\n\n")[0].splitlines()
    return [line.strip() for line in lines[1:]]


def test_an_argument_has_a_line_and_is_no_option() -> None:
    shown = run("verb", "--help")
    assert part(shown, "Arguments") == ["FILE  The file to read."]
    assert "FILE" not in "".join(part(shown, "Options"))


def test_options_stand_in_their_groups_with_their_defaults() -> None:
    """Groups in the order in which they come, each with all of its options."""
    shown = run("verb", "--help")
    assert part(shown, "Options")[0] == "--plain INTEGER  An option of no group.  [default: 3]"
    assert [line.split("  ")[0] for line in part(shown, "One (in a file)")] == ["--first / --no-first", "--third TEXT"]
    assert part(shown, "Another") == ["--second TEXT  Of the second group."]
    assert shown.index("Options:") < shown.index("One (in a file):") < shown.index("Another:")


def test_a_command_is_told_by_its_whole_first_sentence() -> None:
    """However narrow the terminal is; without a command it is the same."""
    for columns in (40, 80):
        told = " ".join(part(run("--help", columns=columns), "Commands"))
        assert told.split(None, 1)[1] == "Do something with a file, and say it: a first sentence of two lines."
    assert "Do something with a file" in run()


def test_what_is_given_arrives() -> None:
    given = [("file", "a"), ("first", True), ("plain", 3), ("second", None), ("third", "x")]
    assert run("verb", "a", "--first", "--third", "x").strip() == str(given)
