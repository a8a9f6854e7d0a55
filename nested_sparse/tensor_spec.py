"""TensorSpec: name, dtype and shape of a model's input or output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .excerpt import excerpt
from .free_size import FreeSize


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    name: name of the tensor. dtype: its dtype as numpy names it, e.g. "float32", or "bfloat16", which numpy
    lacks (nested_sparse/bfloat16.py).
    shape: size of each dimension, None where any size fits, or those of `free`.
    example_shape: shape with which the model was exported.
    free: of each dimension the free size that it has; None where its size is fixed, or follows from others in another
        way. Empty in a model in which at most the batch is free.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    example_shape: tuple[int, ...]
    free: tuple[FreeSize | None, ...] = ()

    @property
    def batch_axis(self) -> int | None:
        """The dimension that counts samples, any number of them: 1 for the states of an LSTM. None: there is none."""
        if not self.free:
            return 0 if self.shape and self.shape[0] is None else None
        return next((axis for axis, each in enumerate(self.free) if each is not None and each.batch), None)

    @property
    def has_batch(self) -> bool:
        """Whether dimension 0 is that one."""
        return self.batch_axis == 0

    def sized(self, batch: int | None, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The example's shape with the free sizes `sizes`, by name, and `batch` samples (None: as many as there)."""
        shape = list(self.example_shape)
        for axis, free in enumerate(self.free):
            if free is not None:
                shape[axis] = sizes.get(free.name, shape[axis])
        if batch is not None and self.batch_axis is not None:
            shape[self.batch_axis] = batch
        return tuple(shape)


def batch_is_free(specs: Iterable[TensorSpec]) -> bool:
    """Whether a dimension of each of them counts samples, any number of them."""
    return all(spec.batch_axis is not None for spec in specs)


def batch_is_first(specs: Iterable[TensorSpec]) -> bool:
    """Whether this is dimension 0 of all of them."""
    return all(spec.has_batch for spec in specs)


def free_sizes(specs: Iterable[TensorSpec]) -> tuple[FreeSize, ...]:
    """The sizes of the inputs `specs` that a run may choose, without the batch, in the order in which they occur."""
    found = {free.name: free for spec in specs for free in spec.free if free is not None}
    return tuple(free for free in found.values() if not free.batch and not free.terms)


def whole_sizes(specs: Iterable[TensorSpec], sizes: Mapping[str, int]) -> dict[str, int]:
    """All sizes of the inputs `specs` by name, sums included: those of `sizes`, and else those of the examples."""
    named = [(free, size) for spec in specs for free, size in zip(spec.free, spec.example_shape, strict=False) if free]
    whole = {free.name: sizes.get(free.name, size) for free, size in named}
    return whole | {free.name: free.sum_of(whole) for free, _ in named if free.terms}


def most_batch(specs: Iterable[TensorSpec]) -> int | None:
    """The largest number of samples that the inputs `specs` may have; None where no bound is known."""
    bounds = [free.most for spec in specs for free in spec.free if free is not None and free.batch]
    return min((each for each in bounds if each is not None), default=None)


def check_examples(inputs: Sequence[TensorSpec]) -> None:
    """Raise ValueError where the examples of `inputs` do not have sizes that are allowed together.

    Also where two sizes are the number of samples, or one input has it twice.
    """
    batches = {free for spec in inputs for free in spec.free if free is not None and free.batch}
    if len(batches) > 1 or any(sum(free in batches for free in spec.free) > 1 for spec in inputs):
        raise ValueError("the number of samples is more than one size, or more than one dimension of an input")
    known = {free.name for free in free_sizes(inputs)}
    for spec in inputs:
        for free in spec.free:
            if free is not None and not known.issuperset(free.terms):
                raise ValueError(f"size '{excerpt(free.name)}' is a sum of sizes that no input has")
    whole = whole_sizes(inputs, {})
    for spec in inputs:
        for size, free in zip(spec.example_shape, spec.free, strict=False):
            if free is not None and (whole[free.name] != size or not (free.terms or free.allows(size))):
                raise ValueError(
                    f"tensor '{excerpt(spec.name)}': its example has a size {size} of '{excerpt(free.name)}'"
                )
