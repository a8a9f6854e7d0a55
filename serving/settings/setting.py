"""Setting: one value that `serve` can be told, with its range and its help; a key of a file and a flag alike."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nested_sparse.argument import shown
from nested_sparse.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Setting:
    """The facts about one field of a group: `key: Annotated[type, Setting(…)] = default`.

    help: half a sentence or two. least, most: the range of a number. choices: the only texts allowed; (): any.
    metavar: what the flag's help shows in place of the type. flag: whether there is a flag too, or only a key.
    live: whether a running server takes it over when its file is read again.
    """

    help: str
    least: float = -math.inf
    most: float = math.inf
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    flag: bool = True
    live: bool = False

    def problem(self, value: object) -> str | None:
        """The values that are expected in the place of `value`; None: it is one of them."""
        if isinstance(value, tuple):
            return next((said for each in value if (said := self.problem(each)) is not None), None)
        if isinstance(value, str | Path) and "\0" in str(value):  # which no system call takes
            return "text without a null character"
        if self.choices and value not in self.choices:
            return f"one of: {', '.join(self.choices)}"
        if isinstance(value, int | float) and not isinstance(value, bool) and not self.least <= value <= self.most:
            return self._range()
        return None

    def _range(self) -> str:
        if self.most == math.inf:
            return f"at least {self.least:g}"
        return f"{self.least:g} to {self.most:g}"


def settings_of(group: type) -> dict[str, Setting]:
    """The Setting of each key of a group."""
    hints = typing.get_type_hints(group, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in dataclasses.fields(group)}


def check_values(group: Any) -> None:
    """For __post_init__ of a group. Raises SettingsError with the first value that is out of range."""
    values = {field.name: getattr(group, field.name) for field in dataclasses.fields(group)}
    for key, value, expected in range_problems(type(group), values):
        raise SettingsError(f"{type(group).__name__}.{key}: expected {expected}, got {shown(value)}")


def range_problems(group: type, values: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Key, value and what was expected, for each of `values` that is out of the range of its key in `group`."""
    for key, facts in settings_of(group).items():
        value = values.get(key)
        expected = None if value is None else facts.problem(value)
        if expected is not None:
            yield key, value, expected
