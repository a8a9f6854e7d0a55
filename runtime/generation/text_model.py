"""TextModel: a model that continues a text of bytes piece by piece, as its inputs, outputs and state show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nested_sparse.bfloat16 import dtype_named
from nested_sparse.state import State
from nested_sparse.tensor_spec import TensorSpec

from ..session import Array, Arrays

BYTE_VALUES = 256


@dataclass(frozen=True, slots=True)
class TextModel:
    """The names of a text model's tensors.

    words: input, int64 (N, T), bytes as numbers. logits: output, floating point (N, T, 256), of the byte behind each.
    longest: most bytes that it reads at once, and that its state holds. state: as of ServedModel. states: the inputs
    that are states, each of a fixed size, so that zeros begin a text.
    """

    words: str
    logits: str
    longest: int
    state: State
    states: tuple[TensorSpec, ...]

    def first_state(self) -> dict[str, Array]:
        """The states of one text before its first byte."""
        return {spec.name: np.zeros(spec.sized(1, {}), dtype_named(spec.dtype)) for spec in self.states}

    def next_state(self, outputs: Arrays) -> dict[str, Array]:
        """The states behind a run with these outputs."""
        return {taken: outputs[given] for given, taken in self.state.items()}


def text_model(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], state: State) -> TextModel | None:
    """The text model with these tensors; None where they are those of another kind of model.

    It has a state, and one input and one output beside it: whole numbers (N, T), at most so many at once as their bound
    says, and for each of them the logits of 256 bytes. Nothing but N is free in its states.
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
    if any(spec.batch_axis is None or sum(free is not None for free in spec.free) != 1 for spec in states):
        return None
    return TextModel(words.name, logits.name, length.most, state, states)
