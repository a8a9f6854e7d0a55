"""LoweredOutputs: what an inference answers whose level fell in the middle, made here by force."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import InputError, LevelError
from nested_sparse.runtime.rerouting import RouteGuard, RouteTable
from nested_sparse.runtime.session import Session

Lowered = tuple[int, int, int, str]
"""Item, level at the start, level at the end, layer where it fell."""


class LoweredOutputs:
    """Outputs of `session` on `items`, lowered exactly where a Lowered says; each is run once and kept."""

    def __init__(self, session: Session, items: Sequence[NDArray[Any]]) -> None:
        self._session, self._items = session, items
        self._known: dict[Lowered, NDArray[Any]] = {}

    def __call__(self, key: Lowered) -> NDArray[Any]:
        """An empty output, which no answer agrees with, where the model has no such level or layer."""
        if key not in self._known:
            self._known[key] = self._run(key)
        return self._known[key]

    def _run(self, key: Lowered) -> NDArray[Any]:
        item, start, end, layer = key
        try:
            self._guard.force(start, end, layer)
            outputs = self._session.run({self._session.inputs[0].name: self._items[item]}, start, guard=self._guard)
        except (InputError, LevelError):
            return np.empty(0)
        return outputs[self._session.outputs[0].name]

    @cached_property
    def _guard(self) -> RouteGuard:
        """Made when it is first needed: its table is measured, though forcing asks only for the layers' order."""
        return RouteGuard(RouteTable.measure(self._session, repeats=1))
