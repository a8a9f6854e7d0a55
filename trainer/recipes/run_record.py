"""RunRecord: the small JSON file of a run, with its recipe and, when the run is done, its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nested_sparse.errors import TrainingError
from nested_sparse.excerpt import MAX_LISTED, excerpt
from nested_sparse.regular_file import open_regular
from nested_sparse.whole_file import write_whole

OUTPUT = "output"
"""The table of a recipe that says what is written at the end."""


class RunRecord:
    """The facts of a run: `facts`, written to disk by every `note`."""

    def __init__(self, path: Path, tables: Mapping[str, Mapping[str, Any]]) -> None:
        self.path = path
        self.facts: dict[str, Any] = {"recipe": _plain(tables)}

    def load(self) -> None:
        """Load the facts of an earlier run of the same recipe, if there is one.

        [output] may differ while there are no figures yet, because it says how to write what was trained. Raises
        TrainingError: the file is not a record, or is of another recipe.
        """
        if not self.path.exists():
            return
        try:
            with open_regular(self.path) as file:
                facts = json.load(file)
            earlier = facts["recipe"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise TrainingError(
                f"{self.path}: is not the record of a training run ({excerpt(error)}); --fresh replaces it, --out "
                "names another folder"
            ) from None
        differing = _differences(self.facts["recipe"], earlier)
        unwritten = "figures" not in facts
        if differing and not (unwritten and all(each.startswith(f"{OUTPUT}.") for each in differing)):
            raise TrainingError(
                f"{self.path}: belongs to a run of another recipe: {'; '.join(differing[:MAX_LISTED])}. --fresh "
                "trains anew, --out names another folder"
            )
        self.facts = {**facts, "recipe": self.facts["recipe"]}

    def note(self, **facts: Any) -> None:
        """Add `facts` and write the file, completely or not at all. Raises TrainingError if that is impossible."""
        self.facts.update(facts)
        try:
            write_whole(self.path, (json.dumps(self.facts, allow_nan=False) + "\n").encode())
        except OSError as error:
            raise TrainingError(
                f"{self.path}: the run's record cannot be written ({error.strerror}); make room, or name another "
                "folder with --out"
            ) from None


def _plain(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`tables` after a round trip through JSON, with dates and other types as text."""
    plain: dict[str, Any] = json.loads(json.dumps(tables, default=str))
    return plain


def _differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    lines = []
    for table in {**wanted, **found}:
        ours, theirs = wanted.get(table, {}), found.get(table, {})
        for key in {**ours, **theirs}:
            if ours.get(key) != theirs.get(key):
                here, there = (excerpt(repr(each.get(key))) for each in (ours, theirs))
                lines.append(f"{excerpt(f'{table}.{key}')} is {here} here, {there} there")
    return lines
