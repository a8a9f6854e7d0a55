"""Weakly: the method is called as long as its object lives, and does not keep it."""

from __future__ import annotations

import gc

from nested_sparse.runtime.scheduling.weakly import weakly


class Owner:
    def __init__(self, told: list[int]) -> None:
        self.told = told
        self.tell = weakly(self.hear)

    def hear(self, number: int) -> None:
        self.told.append(number)


def test_a_weak_method_calls_its_object_as_long_as_it_lives() -> None:
    """The object goes with its last reference, though it holds the function itself."""
    told: list[int] = []
    owner = Owner(told)
    tell = owner.tell
    gc.disable()
    try:
        tell(1)
        del owner
        tell(2)
    finally:
        gc.enable()
    assert told == [1]
