"""BatchFirst: a model as if dimension 0 of each of its tensors were the batch, whatever dimension is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from nested_sparse.tensor_spec import TensorSpec

from ..session import Array, Arrays
from .trial_rows import aligned

if TYPE_CHECKING:
    from nested_sparse.level import Level

    from .row_check import Checkable

SizeT = TypeVar("SizeT")


class BatchFirst:
    """A session whose inputs and outputs have their batch in front. Every one of them has a batch."""

    def __init__(self, session: Checkable) -> None:
        self._session = session
        self.levels: Sequence[Level] = session.levels
        self.decides = session.decides
        self.inputs = [_turned(spec) for spec in session.inputs]
        self.outputs = [_turned(spec) for spec in session.outputs]

    def run(self, inputs: Arrays, level: int) -> dict[str, Array]:
        """As Session.run(). The model gets arrays that begin on a cache line (TrialRows)."""
        turned = moved(self._session.inputs, inputs, lambda array, axis: np.moveaxis(array, 0, axis))
        feeds = {name: aligned(array.shape, array.dtype) for name, array in turned.items()}
        for name, array in turned.items():
            feeds[name][...] = array
        return in_front(self._session.outputs, self._session.run(feeds, level))


def in_front(specs: Sequence[TensorSpec], arrays: Arrays) -> dict[str, Array]:
    """The arrays of `specs` with their batch as dimension 0."""
    return moved(specs, arrays, lambda array, axis: np.moveaxis(array, axis, 0))


def moved(specs: Sequence[TensorSpec], arrays: Arrays, move: Callable[[Array, int], Array]) -> dict[str, Array]:
    """Each array after `move`, which gets the dimension of its batch."""
    return {spec.name: move(arrays[spec.name], spec.batch_axis or 0) for spec in specs}


def _turned(spec: TensorSpec) -> TensorSpec:
    axis = spec.batch_axis or 0
    return replace(
        spec,
        shape=_first(spec.shape, axis),
        example_shape=_first(spec.example_shape, axis),
        free=_first(spec.free, axis) if spec.free else (),
    )


def _first(sizes: Sequence[SizeT], axis: int) -> tuple[SizeT, ...]:
    return (sizes[axis], *sizes[:axis], *sizes[axis + 1 :])
