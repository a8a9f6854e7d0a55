"""Weakly: a method that does not keep its object alive."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec
from weakref import WeakMethod

P = ParamSpec("P")


def weakly(method: Callable[P, None]) -> Callable[P, None]:
    """A function that calls a bound method as long as its object lives, and does nothing afterwards.

    A part that calls its owner back has such a function. With the method itself, owner and part would hold each other,
    and all that they hold would wait for Python's garbage collector. A server that changed its versions grew by it.
    """
    method_of = WeakMethod(method)

    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        found = method_of()
        if found is not None:
            found(*args, **kwargs)

    return call
