"""Order: long files of tests go first, and files of many tests before files of few."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from order import LONG, TESTS, longest_first


@dataclass(frozen=True)
class Item:
    path: Path
    name: str


def test_long_files_go_first_and_files_stay_whole() -> None:
    """As they come: one of a small file, three of a large one, and those of two long files."""
    few, many = [Item(TESTS / "few.py", "a")], [Item(TESTS / "many.py", each) for each in "cab"]
    second, first = [Item(TESTS / LONG[1], each) for each in "xy"], [Item(TESTS / LONG[0], "z")]
    assert longest_first([*few, *many, *second, *first]) == [*first, *second, *many, *few]


def test_each_long_file_is_there() -> None:
    """A file that was moved would go last again."""
    assert [name for name in LONG if not (TESTS / name).is_file()] == []
    assert len(set(LONG)) == len(LONG)
