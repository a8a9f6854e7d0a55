"""Exporter tables: tables that torch.onnx makes anew in each export, kept for the next one or for the whole export.

torch has both as internals. Where a version has moved them, an export takes its time and is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

try:
    from torch.onnx._internal.exporter._registration import ONNXRegistry
except ImportError:
    ONNXRegistry = None  # type: ignore[assignment, misc]

_METHOD = "from_torchlib"
_SEARCH = "_materialize_cpp_cia_ops"
_kept: dict[tuple[object, ...], Any] = {}
"""The last table, by the options that it was made with and the number of torch's operators at that time."""


@contextmanager
def kept_tables() -> Iterator[None]:
    """A context for torch.onnx.export, which takes half of the time for a small network in it.

    *The table of translations* is a copy of the one that an earlier export made. To make it, torch.onnx reads and
    parses the source of some five hundred functions, which took two fifths of an export (docs/decisions/026). It is
    made again where operators came to torch since, as torchvision's do, for then more translations apply.
    *The search for operators* in torch's C++ registry is made once. torch makes it twice for every namespace.
    """
    with ExitStack() as stack:
        made = getattr(ONNXRegistry, "__dict__", {}).get(_METHOD)
        if isinstance(made, classmethod):
            stack.enter_context(_in_place_of(ONNXRegistry, _METHOD, classmethod(_copied(made))))
        utilities = getattr(torch._export, "utils", None)
        search = getattr(utilities, _SEARCH, None)
        if callable(search):
            stack.enter_context(_in_place_of(utilities, _SEARCH, _once(search)))
        yield


def _copied(made: classmethod[Any, ..., Any]) -> Callable[..., Any]:
    """The method that answers with a copy of what `made` made."""

    def from_torchlib(kind: Any, *args: object, **options: object) -> Any:
        key = (kind, *args, *sorted(options.items()), len(torch._C._dispatch_get_all_op_names()))
        if key not in _kept:
            table = made.__get__(None, kind)(*args, **options)
            _kept.clear()
            _kept[key] = table
        copy = kind()
        copy.__dict__.update(_kept[key].__dict__)
        copy.functions = {target: list(each) for target, each in copy.functions.items()}  # an export adds its own
        return copy

    return from_torchlib


def _once(search: Callable[[], None]) -> Callable[[], None]:
    """The function that calls `search` the first time alone."""
    done = False

    def searched() -> None:
        nonlocal done
        if not done:
            search()
            done = True

    return searched


@contextmanager
def _in_place_of(owner: Any, name: str, other: object) -> Iterator[None]:
    """A context in which the attribute `name` of `owner` is `other`."""
    before = vars(owner)[name]
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, before)
