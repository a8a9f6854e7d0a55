"""TensorSpec: name, dtype and shape of a model's input or output."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    name: name of the tensor. dtype: its dtype as numpy names it, e.g. "float32", or "bfloat16", which numpy
    lacks (nested_sparse/bfloat16.py).
    shape: size of each dimension, None where any size fits.
    example_shape: shape with which the model was exported.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    example_shape: tuple[int, ...]


def batch_is_free(specs: Iterable[TensorSpec]) -> bool:
    """Whether the first dimension of all of them may have any size, as a batch does."""
    return all(spec.shape and spec.shape[0] is None for spec in specs)
