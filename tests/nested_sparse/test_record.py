"""Record: the differences to a frozen dataclass, and the facts that both share."""

from __future__ import annotations

from dataclasses import fields, replace

from nested_sparse.record import record


@record(frozen=True, slots=True)
class Point:
    """Two numbers, one of them known."""

    x: float
    y: float = 2.0


@record(frozen=True, slots=True, eq=False)
class Name:
    """Equal to itself alone."""

    text: str


def test_a_record_is_a_dataclass_with_slots() -> None:
    assert [each.name for each in fields(Point)] == ["x", "y"]
    assert Point(1.0) == Point(1.0, 2.0) != Point(1.0, 3.0)
    assert replace(Point(1.0), y=5.0) == Point(1.0, 5.0)
    assert not hasattr(Point(1.0), "__dict__")


def test_equal_ones_are_one_key() -> None:
    """As of a frozen dataclass: a program may have them in a set."""
    assert {Point(1.0), Point(1.0, 2.0), Point(2.0)} == {Point(1.0), Point(2.0)}


def test_its_fields_are_set_without_a_detour() -> None:
    """A frozen dataclass has a __setattr__ of its own, and its __init__ goes around it."""
    assert Point.__setattr__ is object.__setattr__


def test_one_without_equality_can_be_a_key() -> None:
    one = Name("a")
    assert {one: 1}[one] == 1
    assert Name("a") != one
