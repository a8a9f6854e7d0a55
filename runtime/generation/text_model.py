"""TextModel: a model that continues a text of bytes piece by piece, as its inputs, outputs and state show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nested_sparse.bfloat16 import dtype_named
from nested_sparse.free_size import FreeSize
from nested_sparse.state import State
from nested_sparse.tensor_spec import TensorSpec

from ..session import Array, Arrays

BYTE_VALUES = 256
ROOM_STEP = 32
"""Rooms are multiples of it. A run's time grows with the room, and texts run together only where theirs are equal."""


@dataclass(frozen=True, slots=True)
class TextModel:
    """The names of a text model's tensors.

    words: input, int64 (N, T), bytes as numbers. logits: output, floating point (N, T, 256), of the byte behind each.
    longest: most bytes that it reads at once, and that its state holds. state: as of ServedModel. states: the inputs
    that are states. room: their free size, in which byte t has slot t; None: it is fixed.
    """

    words: str
    logits: str
    longest: int
    state: State
    states: tuple[TensorSpec, ...]
    room: FreeSize | None

    def first_state(self) -> dict[str, Array]:
        """The states of one text before its first byte, with the least room: zeros."""
        sizes = {} if self.room is None else {self.room.name: self.room.least}
        return {spec.name: np.zeros(spec.sized(1, sizes), dtype_named(spec.dtype)) for spec in self.states}

    def next_state(self, outputs: Arrays) -> dict[str, Array]:
        """The states behind a run with these outputs."""
        return {taken: outputs[given] for given, taken in self.state.items()}

    def with_room(self, states: dict[str, Array], size: int) -> dict[str, Array]:
        """The same states with room for `size` bytes at least: zeros behind, up to a multiple of ROOM_STEP."""
        if self.room is None:
            return states
        wanted = min(-(-size // ROOM_STEP) * ROOM_STEP, self.longest)
        return {spec.name: self._widened(spec, states[spec.name], wanted) for spec in self.states}

    def _widened(self, spec: TensorSpec, array: Array, wanted: int) -> Array:
        axis = next((axis for axis, free in enumerate(spec.free) if free == self.room), None)
        if axis is None or array.shape[axis] >= wanted:
            return array
        shape = list(array.shape)
        shape[axis] = wanted
        wider = np.zeros(shape, array.dtype)
        np.moveaxis(wider, axis, 0)[: array.shape[axis]] = np.moveaxis(array, axis, 0)
        return wider


def text_model(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], state: State) -> TextModel | None:
    """The text model with these tensors; None where they are those of another kind of model.

    It has a state, and one input and one output beside it: whole numbers (N, T), at most so many at once as their bound
    says, and for each of them the logits of 256 bytes. In its states, N and at most one size of all of them are free.
    """
    states = tuple(spec for spec in inputs if spec.name in set(state.values()))
    given = [spec for spec in inputs if spec.name not in set(state.values())]
    shown = [spec for spec in outputs if spec.name not in state]
    if not states or len(given) != 1 or len(shown) != 1:
        return None
    words, logits = given[0], shown[0]
    if words.dtype != "int64" or len(words.free) != 2 or len(logits.free) != 3:
        return None
    length = words.free[1]
    if words.batch_axis != 0 or length is None or length.most is None or length.least > 1 or length.multiple > 1:
        return None
    if logits.batch_axis != 0 or logits.free[1] != length or logits.shape[2] != BYTE_VALUES:
        return None
    rooms = {free for spec in states for free in spec.free if free is not None and not free.batch}
    if len(rooms) > 1 or any(free.terms or free.multiple > 1 for free in rooms):
        return None
    if any(spec.batch_axis is None or sum(free is not None for free in spec.free) > 2 for spec in states):
        return None
    room = next(iter(rooms), None)
    longest = length.most if room is None or room.most is None else min(length.most, room.most)
    return TextModel(words.name, logits.name, longest, state, states, room)
