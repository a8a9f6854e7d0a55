"""Input tensors: the check of what a caller gives, the batch in it, and random examples."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nested_sparse.argument import shown, whole
from nested_sparse.bfloat16 import BFLOAT16, NAME, cast, dtype_named
from nested_sparse.errors import InputError, OutOfMemoryError
from nested_sparse.excerpt import excerpt, excerpts
from nested_sparse.free_size import FreeSize
from nested_sparse.tensor_spec import TensorSpec, whole_sizes

Array = NDArray[np.generic]
Arrays = Mapping[str, Array]
_DTYPES = {
    name: np.dtype(name)
    for name in ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "bool")
}
"""numpy's usual object for a dtype, by its name; an equal dtype may be another object."""
_DRAWN_BYTES = 8
"""Bytes of one random number before it is cast."""


class CheckedInputs(dict[str, Array]):
    """Arrays that fit the tensors `specs`, in their order: checked once, and not again for the same specs.

    sizes: their free sizes but for the batch, in the order of free_sizes(specs).
    """

    __slots__ = ("sizes", "specs")

    def __init__(self, specs: Sequence[TensorSpec], arrays: Iterable[tuple[str, Array]]) -> None:
        dict.__init__(self, arrays)
        self.specs = specs
        alone = len(specs) == 1 and not specs[0].free  # so there is nothing to compare
        self.sizes = () if alone else _checked_sizes(specs, self)


def check_inputs(specs: Sequence[TensorSpec], inputs: Arrays) -> CheckedInputs:
    """`inputs` as contiguous arrays, in the order of `specs`.

    Nothing is cast: names, dtypes (in native byte order), ranks and fixed sizes must be right, no dimension may be 0,
    and free sizes must be allowed, equal for one name. An array that is not contiguous is copied. Raises InputError.
    """
    if type(inputs) is CheckedInputs and inputs.specs is specs:
        return inputs
    if type(inputs) is dict and (fitting := _as_they_are(specs, inputs)) is not None:
        return CheckedInputs(specs, fitting)
    if not isinstance(inputs, Mapping):
        names = excerpts([spec.name for spec in specs])
        raise InputError(f"inputs: expected a dict of a numpy array for each of [{names}], got {shown(inputs)}")
    if len(inputs) != len(specs) or any(spec.name not in inputs for spec in specs):
        raise _other_names(specs, inputs)
    return CheckedInputs(specs, [(spec.name, _checked(spec, inputs[spec.name])) for spec in specs])


def _as_they_are(specs: Sequence[TensorSpec], inputs: dict[str, Array]) -> list[tuple[str, Array]] | None:
    """The arrays where none needs a change or an error, as those of nearly all runs; None for all others.

    It takes half the time of the whole check.
    """
    if len(inputs) != len(specs):
        return None
    arrays = []
    for spec in specs:
        array = inputs.get(spec.name)
        if type(array) is not np.ndarray or array.dtype is not _DTYPES.get(spec.dtype):
            return None
        flags = array.flags
        if not (_fits(array.shape, spec.shape) and flags.c_contiguous and flags.aligned):
            return None
        arrays.append((spec.name, array))
    return arrays


def _other_names(specs: Sequence[TensorSpec], inputs: Arrays) -> InputError:
    wanted = {spec.name for spec in specs}
    unknown, missing = sorted(set(inputs) - wanted, key=str), sorted(wanted - set(inputs))
    return InputError(
        f"inputs: missing [{excerpts(missing)}], unknown [{excerpts(unknown)}]; "
        f"this model takes [{excerpts([spec.name for spec in specs])}]"
    )


def _checked(spec: TensorSpec, array: Array) -> Array:
    if not isinstance(array, np.ndarray):
        raise InputError(
            f"input '{excerpt(spec.name)}': expected a numpy array, got {type(array).__name__}; use numpy.asarray"
        )
    if array.dtype != dtype_named(spec.dtype):
        advice = f".astype(numpy.{spec.dtype})" if spec.dtype != NAME else "nested_sparse.bfloat16.cast"
        raise InputError(f"input '{excerpt(spec.name)}': expected {spec.dtype}, got {array.dtype}; use {advice}")
    if not _fits(array.shape, spec.shape):
        raise InputError(f"input '{excerpt(spec.name)}': expected shape {_shape_text(spec)}, got {list(array.shape)}")
    return in_order(array)


def _checked_sizes(specs: Sequence[TensorSpec], arrays: Arrays) -> tuple[int, ...]:
    """The free sizes of `arrays` but for the batch. Raises InputError for one out of range, or two of one name."""
    found: dict[FreeSize, tuple[int, str]] = {}
    for spec in specs:
        for axis, free in enumerate(spec.free):
            if free is None:
                continue
            size = arrays[spec.name].shape[axis]
            known, where = found.setdefault(free, (size, spec.name))
            if size != known:
                raise InputError(
                    f"input '{excerpt(spec.name)}': its dimension {axis}, '{excerpt(free.name)}', is {size}, but that "
                    f"of input '{excerpt(where)}' is {known}; they must be equal"
                )
            if not free.terms and not free.allows(size):
                raise InputError(
                    f"input '{excerpt(spec.name)}': dimension {axis}, '{excerpt(free.name)}', may be "
                    f"{free.range_text}, got {size}"
                )
    if not found:
        return ()
    sizes = {free.name: size for free, (size, _) in found.items()}
    for free, (size, where) in found.items():
        if free.terms and size != free.sum_of(sizes):
            raise InputError(
                f"input '{excerpt(where)}': '{excerpt(free.name)}' must be {free.range_text}, here "
                f"{free.sum_of(sizes)}, got {size}"
            )
    return tuple([size for free, (size, _) in found.items() if not free.batch and not free.terms])


def unequal_batches(specs: Sequence[TensorSpec], arrays: Arrays) -> str:
    """The inputs that have other numbers of samples than the first, in words; "" where all have as many.

    No check refuses them before a run: a model may broadcast one sample to several.
    """
    batches = [(spec.name, arrays[spec.name].shape[0]) for spec in specs if not spec.free and spec.has_batch]
    other = next((each for each in batches if each[1] != batches[0][1]), None)
    if other is None:
        return ""
    (first, expected), (name, batch) = batches[0], other
    return (
        f"input '{excerpt(name)}': its dimension 0, the batch, is {batch}, but that of input '{excerpt(first)}' is "
        f"{expected}; they must be equal"
    )


def in_order(array: Array) -> Array:
    """`array`, or a copy where it is not contiguous or its values are not at multiples of their size."""
    if type(array) is not np.ndarray:  # a class of its own, such as numpy's matrix, is left to numpy
        return np.require(array, requirements=("C", "A"))
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else array.copy()


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    for size, only in zip(shape, wanted, strict=True):  # noqa: SIM110 -- twice as fast as all() of a generator
        if size < 1 or (only is not None and size != only):
            return False
    return True


def _shape_text(spec: TensorSpec) -> str:
    sizes = zip(spec.shape, spec.free or (None,) * len(spec.shape), strict=True)
    return "[" + ", ".join(_size_text(size, free) for size, free in sizes) + "]"


def _size_text(size: int | None, free: FreeSize | None) -> str:
    if free is not None:
        return f"{excerpt(free.name)}: {free.range_text}"
    return "any >= 1" if size is None else str(size)


def batch_size(specs: Sequence[TensorSpec], inputs: Arrays) -> int:
    """Samples in one request: as many as the first input has whose batch is free, else the fixed batch."""
    for spec in specs:
        axis = spec.batch_axis
        if axis is not None:
            return int(inputs[spec.name].shape[axis])
    return fixed_batch(specs) or 1


def fixed_batch(specs: Sequence[TensorSpec]) -> int | None:
    """The only batch that the model takes; None where any batch will do."""
    if any(spec.batch_axis is not None for spec in specs):
        return None
    return next((spec.example_shape[0] for spec in specs if spec.shape), 1)


def random_inputs(
    specs: Sequence[TensorSpec], batch: int, seed: int = 0, sizes: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """Inputs of the example shapes with `batch` samples: standard normal for floating point, zeros for other dtypes.

    sizes: other free sizes than the examples', by name.

    Raises InputError where `batch` is not a whole number above 0, OutOfMemoryError where memory does not suffice.
    """
    batch = whole("batch", batch, 1)
    try:
        return _random_inputs(specs, batch, seed, sizes or {})
    except MemoryError:
        raise OutOfMemoryError(f"no memory for random inputs of {batch} samples; take a smaller batch") from None


def _random_inputs(specs: Sequence[TensorSpec], batch: int, seed: int, sizes: Mapping[str, int]) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    sizes = whole_sizes(specs, sizes)
    for spec in specs:
        shape = spec.sized(batch, sizes)
        dtype = dtype_named(spec.dtype)
        if math.prod(shape) * _DRAWN_BYTES > sys.maxsize:
            raise MemoryError  # numpy would raise ValueError for such a shape
        floats = dtype == BFLOAT16 or np.issubdtype(dtype, np.floating)
        arrays[spec.name] = cast(generator.standard_normal(shape) if floats else np.zeros(shape), dtype)
    return arrays


def value_pool(example: Array) -> Array | None:
    """The values of `example`, flat, from which random ones like it are drawn, so that indices stay indices.

    None: floating point that is constant, or has values that are not finite; then normal noise is drawn.
    """
    values = example.ravel()
    if np.issubdtype(values.dtype, np.inexact) and (is_constant(values) or not np.isfinite(values).all()):
        return None
    return values


def is_constant(values: Array) -> bool:
    """Whether all of `values`, flat and at least one, are the same."""
    return bool((values == values[0]).all())


def drawn_from(pool: Array | None, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Random values of `shape`: each one of `pool`, or standard normal, float64, where there is none."""
    if pool is None:
        return np.asarray(generator.standard_normal(shape))
    return np.asarray(pool[generator.integers(len(pool), size=shape)])
