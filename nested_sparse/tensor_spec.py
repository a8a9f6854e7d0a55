"""TensorSpec: name, dtype and shape of a model's input or output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
    def has_batch(self) -> bool:
        """Whether dimension 0 counts samples, any number of them."""
        if not self.shape or self.shape[0] is not None:
            return False
        return not self.free or (self.free[0] is not None and self.free[0].batch)

    def sized(self, batch: int | None, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """A shape of it: that of the example with other free sizes, by name, and `batch` samples (None: as there)."""
        shape = [
            each if free is None else sizes.get(free.name, each)
            for each, free in zip(self.example_shape, self.free or (None,) * len(self.shape), strict=True)
        ]
        if batch is not None and self.has_batch:
            shape[0] = batch
        return tuple(shape)


def batch_is_free(specs: Iterable[TensorSpec]) -> bool:
    """Whether the first dimension of all of them counts samples, any number of them."""
    return all(spec.has_batch for spec in specs)


def free_sizes(specs: Iterable[TensorSpec]) -> tuple[FreeSize, ...]:
    """The free sizes of the inputs `specs` but for the batch, each once, in the order in which they occur."""
    found = {free.name: free for spec in specs for free in spec.free if free is not None and not free.batch}
    return tuple(found.values())


def most_batch(specs: Iterable[TensorSpec]) -> int | None:
    """The largest number of samples that the inputs `specs` may have; None where no bound is known."""
    bounds = [spec.free[0].most for spec in specs if spec.has_batch and spec.free and spec.free[0] is not None]
    return min((each for each in bounds if each is not None), default=None)


def check_sizes(inputs: Iterable[TensorSpec]) -> None:
    """Raise ValueError where the examples of `inputs` do not have their free sizes, or not one size for one name."""
    known: dict[str, int] = {}
    for spec in inputs:
        for size, free in zip(spec.example_shape, spec.free, strict=False):
            if free is not None and (not free.allows(size) or known.setdefault(free.name, size) != size):
                raise ValueError(f"tensor '{spec.name}': its example has a size {size} of '{free.name}'")
