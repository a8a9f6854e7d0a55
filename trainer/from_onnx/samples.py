"""Samples: the calibration data of a model from an ONNX file, and its labels, from an NPZ file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nested_sparse.argument import file_path
from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt
from nested_sparse.tensor_spec import TensorSpec

from ..entry import described

SAMPLES = (32, 256)
"""Least and most samples where the user names no number."""
MOST_VALUES = 1 << 23
"""Values of all inputs of all samples then: 55 images of 224 × 224."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples as the model takes them.

    inputs: one tensor for each input, all runs of it one behind the other along dimension 0. runs: number of runs that
    the model needs for them: 1 where its batch is free. labels: class index of each sample; None: not given.
    free: whether dimension 0 of each input counts samples, any number of them.
    """

    inputs: tuple[Tensor, ...]
    runs: int
    labels: NDArray[np.int64] | None
    free: bool

    def first(self, count: int) -> tuple[Tensor, ...]:
        """The inputs of the first `count` samples or runs, as those of `inputs`; of all where they are fewer."""
        if self.free:
            return tuple(each[:count] for each in self.inputs)
        return tuple(each[: count * (len(each) // self.runs)] for each in self.inputs)

    def run(self, index: int) -> tuple[Tensor, ...]:
        """The inputs of one run."""
        return tuple(each.chunk(self.runs)[index] for each in self.inputs)


def read_samples(
    data: str | os.PathLike[str] | Arrays, inputs: Sequence[TensorSpec], labels: str | None, most: int | None
) -> Samples:
    """The samples in an NPZ file, or in a mapping of arrays, for a model with these `inputs`.

    An array has the samples along its first dimension: it has the input's shape with any number of samples in place of
    the batch, or one more dimension in front of it. labels: name of the array of class indices. most: number of samples
    to take, from the first on; None: 256, of large inputs fewer, so that all have MOST_VALUES values.
    Raises InputError.
    """
    where = "calibration" if isinstance(data, Mapping) else str(file_path("calibration", data))
    arrays = dict(data) if isinstance(data, Mapping) else _arrays(where, data)
    names = [spec.name for spec in inputs]
    wanted = [*names, *([labels] if labels else [])]
    _check_names(where, arrays, wanted, labels)
    checked = [_checked(where, arrays[spec.name], spec) for spec in inputs]
    counts = {name: _count(array, spec) for name, array, spec in zip(names, checked, inputs, strict=True)}
    free = all(spec.has_batch for spec in inputs)
    if len(set(counts.values())) != 1:
        shapes = ", ".join(f"{spec.name!r} [{', '.join(['samples', *_sizes(spec.shape)])}]" for spec in inputs)
        hint = "" if free else f"; give each array one more dimension, in front, for the samples: {shapes}"
        raise InputError(f"{where}: expected as many samples in each array, got {counts}{hint}")
    count = counts[names[0]]
    if not count:
        raise InputError(f"{where}: holds no whole sample; give a few hundred typical inputs")
    taken = min(count, _usual(checked, count) if most is None else most)
    tensors = [
        _flat(array[: taken * (1 if free or _apart(array, spec) else _rows(array, spec))], spec)
        for array, spec in zip(checked, inputs, strict=True)
    ]
    rows = len(tensors[0]) // taken
    classes = None if not labels else _labels(where, labels, arrays[labels], count, rows)
    if classes is not None:
        classes = classes[: taken * (len(classes) // count)]
    return Samples(tuple(tensors), 1 if free else taken, classes, free)


def _usual(arrays: Sequence[NDArray[Any]], count: int) -> int:
    """The number of samples where none is asked for."""
    return max(SAMPLES[0], min(SAMPLES[1], MOST_VALUES * count // sum(array.size for array in arrays)))


def _arrays(where: str, path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    if not os.path.isfile(path):  # a pipe would be waited for
        raise InputError(f"{where}: expected an NPZ file of calibration data, there is no such file")
    try:
        with np.load(path, allow_pickle=False) as found:
            if isinstance(found, np.ndarray):
                raise InputError(f"{where}: holds one array without a name; save with numpy.savez(path, NAME=array)")
            return {name: found[name] for name in found.files}
    except InputError:
        raise
    except (
        OSError,
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        MemoryError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise InputError(
            f"{where}: expected an NPZ file of plain arrays, as numpy.savez writes it, got one that cannot be read "
            f"({described(error)}); objects (pickles) are not read"
        ) from error


def _check_names(where: str, arrays: Arrays, wanted: Sequence[str], labels: str | None) -> None:
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise InputError(
            f"{where}: has no array {excerpt(missing[0])!r}; expected one for each of {', '.join(map(repr, wanted))}, "
            f"got {', '.join(map(repr, arrays)) or 'none'}"
        )
    extra = [name for name in arrays if name not in wanted]
    if extra:
        hint = "" if labels else "; if it holds class indices, name it as labels"
        raise InputError(
            f"{where}: has an array {excerpt(extra[0])!r}, which is no input of the model; its inputs are "
            f"{', '.join(map(repr, wanted))}{hint}"
        )


def _checked(where: str, array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """The array in the input's dtype. Raises InputError."""
    array, dtype = np.asarray(array), np.dtype(spec.dtype)
    said = f"{where}: array {excerpt(spec.name)!r}"
    array = array if array.ndim or spec.shape else array.reshape(1)
    same_kind = array.dtype.kind == dtype.kind or (array.dtype.kind in "iu" and dtype.kind in "iu")
    if not same_kind:
        raise InputError(f"{said} is {array.dtype}, the model's input {dtype}; convert it as the model's users do")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{said} holds NaN or infinity; leave these samples out")
    if array.dtype != dtype:
        cast = array.astype(dtype)
        if array.dtype.kind in "iu" and not np.array_equal(cast, array):
            raise InputError(f"{said} holds numbers that {dtype} does not have")
        array = cast
    shape = (None if spec.has_batch else spec.shape[0], *spec.shape[1:]) if spec.shape else ()
    fits = _fits(array.shape[1:], spec.shape) if _apart(array, spec) else _fits(array.shape[1:], shape[1:])
    if not fits or not array.ndim or array.ndim < len(spec.shape):
        first = "any" if spec.shape[:1] == (None,) and not spec.has_batch else "samples"
        text = ", ".join([first, *_sizes(shape[1:])])
        raise InputError(f"{said} has the shape {list(array.shape)}, expected [{text}]")
    return array


def _sizes(shape: Sequence[int | None]) -> list[str]:
    return ["any" if size is None else str(size) for size in shape]


def _fits(sizes: Sequence[int], shape: Sequence[int | None]) -> bool:
    return len(sizes) == len(shape) and all(size in (None, given) for given, size in zip(sizes, shape, strict=True))


def _apart(array: NDArray[Any], spec: TensorSpec) -> bool:
    """Whether each entry of the array is one whole input, with its batch."""
    return array.ndim == len(spec.shape) + 1 and not spec.has_batch


def _rows(array: NDArray[Any], spec: TensorSpec) -> int:
    """Rows of dimension 0 in one run of a model without a free batch: of a size that is free, what the array has."""
    size = spec.shape[0] if spec.shape else 1
    return len(array) if size is None else size


def _count(array: NDArray[Any], spec: TensorSpec) -> int:
    """Runs of a model with a fixed batch, or samples where it is free."""
    if spec.has_batch or _apart(array, spec):
        return len(array)
    return len(array) // max(1, _rows(array, spec))


def _flat(array: NDArray[Any], spec: TensorSpec) -> Tensor:
    """One run behind the other along dimension 0; of inputs without dimensions, each is one."""
    if _apart(array, spec) and spec.shape:
        array = array.reshape(-1, *array.shape[2:])
    return torch.from_numpy(np.ascontiguousarray(array))


def _labels(where: str, name: str, array: NDArray[Any], count: int, rows: int) -> NDArray[np.int64]:
    """The class indices of `count` samples, or of `count` runs of `rows` samples each."""
    array = np.asarray(array)
    said = f"{where}: labels {excerpt(name)!r}"
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise InputError(
            f"{said} are {array.dtype} {list(array.shape)}, expected class indices, whole numbers [samples]"
        )
    if len(array) not in (count, count * rows):
        raise InputError(f"{said}: expected {count * rows} of them, one for each sample, got {len(array)}")
    if len(array) and (array.min() < 0 or array.max() >= 1 << 31):
        raise InputError(f"{said} range from {array.min()} to {array.max()}, expected class indices from 0 on")
    return array.astype(np.int64)
