"""LoweredOutputs: the outputs of inferences whose level fell in the middle, made here by forcing the fall."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import InputError, LevelError
from nested_sparse.runtime.rerouting import RouteGuard, RouteTable
from nested_sparse.runtime.session import Session

from .item import Item, by_name

Lowered = tuple[int, int, int, str]
"""Index of the item, level at the start, level at the end, layer at which it fell."""


class LoweredOutputs:
    """Outputs of `session` on `items`, lowered exactly as a Lowered says; each is computed once and kept."""

    def __init__(self, session: Session, items: Sequence[Item]) -> None:
        self._session, self._items = session, items
        self._known: dict[Lowered, NDArray[Any]] = {}

    def __call__(self, key: Lowered) -> NDArray[Any]:
        """The output. Where the model has no such level or layer it is empty, so that no answer agrees with it."""
        if key not in self._known:
            self._known[key] = self._run(key)
        return self._known[key]

    def _run(self, key: Lowered) -> NDArray[Any]:
        item, start, end, layer = key
        try:
            self._guard.force(start, end, layer)
            inputs = by_name(self._items[item], [spec.name for spec in self._session.inputs])
            outputs = self._session.run(inputs, start, guard=self._guard)
        except (InputError, LevelError):
            return np.empty(0)
        return outputs[self._session.outputs[0].name]

    @cached_property
    def _guard(self) -> RouteGuard:
        """Made at its first use, as its table is measured; forcing needs only the order of the layers in it."""
        return RouteGuard(RouteTable.measure(self._session, repeats=1))
