"""First state: zeros, or the values that the request which starts a sequence brings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from nested_sparse.bfloat16 import dtype_named
from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt
from nested_sparse.runtime.session import Array, Arrays
from nested_sparse.tensor_spec import TensorSpec

from ..served_model import ServedModel


def first_state(model: ServedModel, given: Arrays, reserve: Callable[[int], None]) -> dict[str, Array]:
    """The states of a new sequence by input, where its first request has the inputs `given`, unchecked yet.

    reserve: called with the bytes of all states before there are any; it raises where there is no room. Raises
    InputError for a state without a value whose size nothing tells.
    """
    sizes = _given_sizes(model, given)
    batch = given_batch(model, given)
    states = [spec for spec in model.inputs if spec.name in set(model.state.values())]
    shapes = {spec.name: _shape(spec, batch, sizes) for spec in states if spec.name not in given}
    missing = {spec.name: dtype_named(spec.dtype) for spec in states if spec.name not in given}
    reserve(
        sum(given[spec.name].nbytes for spec in states if spec.name in given)
        + sum(math.prod(shapes[name]) * dtype.itemsize for name, dtype in missing.items())
    )
    return {
        spec.name: given[spec.name] if spec.name in given else np.zeros(shapes[spec.name], missing[spec.name])
        for spec in states
    }


def given_batch(model: ServedModel, given: Arrays) -> int | None:
    """The number of samples of a request, by its first input that has any; None where none has."""
    for spec in model.inputs:
        axis, array = spec.batch_axis, given.get(spec.name)
        if axis is not None and array is not None and array.ndim == len(spec.shape):
            return int(array.shape[axis])
    return None


def _given_sizes(model: ServedModel, given: Arrays) -> dict[str, int]:
    """The free sizes that the given inputs tell, by name."""
    found: dict[str, int] = {}
    for spec in model.inputs:
        array = given.get(spec.name)
        if array is not None and array.ndim == len(spec.free):
            found |= {free.name: size for free, size in zip(spec.free, array.shape, strict=True) if free is not None}
    return found


def _shape(spec: TensorSpec, batch: int | None, sizes: Mapping[str, int]) -> tuple[int, ...]:
    shape = list(spec.shape)
    for axis, free in enumerate(spec.free):
        if free is not None:
            shape[axis] = sizes.get(free.name)
    if spec.batch_axis is not None:
        shape[spec.batch_axis] = batch
    if None in shape:
        raise InputError(
            f"Input '{excerpt(spec.name)}', a state, has sizes that its sequence does not tell; give its first value "
            "with the request that starts the sequence."
        )
    return tuple(size for size in shape if size is not None)
