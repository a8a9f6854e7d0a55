"""Forward's code: the parts of a user's forward that a few calls with random inputs could not show."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from types import FunctionType

from torch import nn

BRANCHES = ("JUMP_IF", "POP_JUMP", "FOR_ITER", "JUMP_BACKWARD")
"""Parts of the names of instructions that go one of two ways, in every version of Python."""
WRITES = ("STORE_ATTR", "DELETE_ATTR", "STORE_SUBSCR")


def why_not_one_product(kind: type[nn.Module]) -> str | None:
    """The reason why the forward of `kind` may make another product than it made once; None where it cannot.

    It may where it takes several arguments, branches, or writes into attributes. Methods of the class that the forward
    names, and functions of the user's that these name, are looked at, too. Functions that these functions call are
    not: a branch there is most likely about padding.
    """
    arguments = [*inspect.signature(kind.forward).parameters.values()][1:]
    if len(arguments) != 1 or arguments[0].kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        return "its forward takes more than one argument, by which its product may change"
    for method in _methods(kind):
        for instruction in dis.get_instructions(method):
            if any(part in instruction.opname for part in BRANCHES):
                return f"{method.__name__} branches or loops, so its product may change"
            if instruction.opname in WRITES:
                return f"{method.__name__} writes into an attribute, so its weight may change"
    return None


def _methods(kind: type[nn.Module]) -> Iterator[FunctionType]:
    """The forward, all methods of the user's classes that it names, and the functions that any of these names."""
    own = [each for each in kind.__mro__ if not _is_torchs(each.__module__) and each is not object]
    waiting, seen = ["forward"], set[str]()
    while waiting:
        name = waiting.pop()
        found = next((vars(each)[name] for each in own if name in vars(each)), None)
        found = found.fget if isinstance(found, property) else found
        if name not in seen and isinstance(found, FunctionType):
            yield found
            waiting += found.__code__.co_names
            named = (found.__globals__.get(each) for each in found.__code__.co_names)
            yield from (each for each in named if isinstance(each, FunctionType) and not _is_torchs(each.__module__))
        seen.add(name)


def _is_torchs(module: str) -> bool:
    return module.partition(".")[0] == "torch"
