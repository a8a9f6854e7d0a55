"""Item: the inputs of one request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from numpy.typing import NDArray

Item: TypeAlias = NDArray[Any] | Mapping[str, NDArray[Any]]
"""The only input of a model, or the inputs by name. Dimension 0 counts the samples."""


def by_name(item: Item, names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
    """The inputs of a model whose inputs have these names. Raises ValueError: it has several, and the item is one."""
    if isinstance(item, Mapping):
        return item
    (only,) = names
    return {only: item}


def samples_of(item: Item) -> int:
    """Number of samples."""
    return len(next(iter(item.values())) if isinstance(item, Mapping) else item)


def shapes_of(item: Item) -> str:
    """The shapes, for messages."""
    inputs = item.values() if isinstance(item, Mapping) else [item]
    return " and ".join(str(list(each.shape)) for each in inputs)
