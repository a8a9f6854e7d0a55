"""TrialRows: samples to try a model with: like its examples, far larger, or NaN."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from nested_sparse.bfloat16 import cast, dtype_named
from nested_sparse.tensor_spec import TensorSpec

from ..session import Array, Arrays, drawn_from, is_constant, value_pool

TYPICAL, LARGE, NEGATED, NAN, SWITCHED = "typical", "large", "negated", "nan", "switched"
KINDS = (TYPICAL, LARGE, NEGATED, NAN, SWITCHED)
"""Kinds of samples. LARGE ones show terms of a small weight, and pass thresholds; NEGATED ones, the same with the other
sign, pass thresholds from the other side. NAN passes through every computation, however small its factor. These three
change floating point inputs only. SWITCHED ones change other inputs that have one value in the examples, such as a mask
of ones: they are 0 or 1."""
LARGE_EXPONENT = 20
_ALIGNMENT = 64


class TrialRows:
    """Random samples for the inputs `specs`, the same ones for the same seed.

    examples: values are drawn from them, so that indices stay indices; without them, or where they are constant,
    floating point is standard normal, and the rest is 0 or 1, which most vocabularies and masks have.
    """

    def __init__(self, specs: Sequence[TensorSpec], examples: Arrays | None, seed: int) -> None:
        self._specs = specs
        self._pools = {spec.name: _pool(spec, None if examples is None else examples[spec.name]) for spec in specs}
        self._generator = np.random.default_rng(seed)

    def draw(self, count: int) -> dict[str, Array]:
        """`count` typical samples, in arrays that begin on a cache line.

        The alignment is fixed because a vectorised sum may begin with the elements before the first boundary, and then
        rounds differently.
        """
        return {spec.name: self._drawn(spec, count, TYPICAL) for spec in self._specs}

    def of_kinds(self, count: int, kinds: Sequence[str]) -> Iterator[dict[str, Array]]:
        """`count` samples of each of `kinds`; SWITCHED is left out where no input can be switched.

        Inputs that a kind does not concern are typical.
        """
        large = {spec.name: self._drawn(spec, count, LARGE) for spec in self._specs}
        for kind in kinds:
            if kind == LARGE:
                yield large
            elif kind == NEGATED:
                yield {name: np.negative(array) if _floats(array.dtype) else array for name, array in large.items()}
            elif kind != SWITCHED or any(pool is not None and is_constant(pool) for pool in self._pools.values()):
                yield {spec.name: self._drawn(spec, count, kind) for spec in self._specs}

    def _drawn(self, spec: TensorSpec, count: int, kind: str) -> Array:
        shape = (count, *spec.example_shape[1:])
        pool, dtype = self._pools[spec.name], dtype_named(spec.dtype)
        drawn = aligned(shape, dtype)
        if _floats(dtype) and kind == NAN:
            drawn[...] = np.nan
        elif _floats(dtype) and kind == LARGE:
            largest = 1.0 if pool is None else max(1.0, float(np.abs(pool).max()))
            # by very different factors: in each sample a few values outweigh the rest, so that sums differ in sign
            exponents = self._generator.uniform(0, LARGE_EXPONENT, shape)
            with np.errstate(over="ignore"):  # infinite in half precision, which is large, too
                drawn[...] = self._generator.standard_normal(shape) * largest * 2.0**exponents
        elif kind == SWITCHED and pool is not None and is_constant(pool):
            drawn[...] = self._generator.integers(2, size=shape)
        else:
            drawn[...] = drawn_from(pool, shape, self._generator)
        return drawn


def aligned(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """An empty array that begins on a cache line."""
    nbytes = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(nbytes + _ALIGNMENT, np.uint8)
    begin = -raw.ctypes.data % _ALIGNMENT
    return raw[begin : begin + nbytes].view(dtype).reshape(shape)


def mixed(kept: Arrays, others: Arrays, mask: NDArray[np.bool_]) -> dict[str, Array]:
    """The rows of `kept` where `mask` is true, else those of `others`."""
    result = {}
    for name, rows in kept.items():
        result[name] = aligned(rows.shape, rows.dtype)
        result[name][...] = others[name]
        result[name][mask] = rows[mask]
    return result


def _floats(dtype: np.dtype[np.generic]) -> bool:
    return bool(np.issubdtype(dtype, np.inexact))


def _pool(spec: TensorSpec, example: Array | None) -> Array | None:
    """The values that this input is drawn from; None for normal noise."""
    if example is not None:
        return value_pool(example)
    dtype = dtype_named(spec.dtype)
    return None if _floats(dtype) else cast(np.arange(2), dtype)
