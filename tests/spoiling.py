"""Spoiling: arbitrary changes of a node's attributes and segments, and memory that ends where an array ends."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from sparse_node import Placed

GEOMETRY = ("kernel_shape", "strides", "pads", "dilations", "output_padding")
# Counts that are large and lawful would only make the test allocate gigabytes.
LARGE = (2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, -1, -(2**31), -(2**63))


def guarded(array: NDArray[Any], *, before: bool = False) -> NDArray[Any]:
    """A copy of `array` that ends at the end of a page, before one that cannot be read or written.

    before: it begins where such a page ends, instead.
    """
    page = mmap.PAGESIZE
    readable = -(-array.nbytes // page) * page
    memory = np.frombuffer(mmap.mmap(-1, readable + page), np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    guard = ctypes.c_void_p(memory.ctypes.data + (0 if before else readable))
    if libc.mprotect(guard, ctypes.c_size_t(page), 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    begin = page if before else readable - array.nbytes
    copy = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def near(value: int) -> st.SearchStrategy[int]:
    """An int64 a step away from `value`: offsets go by 64."""
    return st.sampled_from((-64, -2, -1, 1, 2, 64)).map(lambda step: min(max(value + step, -(2**63)), 2**63 - 1))


def spoil_attribute(data: st.DataObject, attributes: dict[str, Any]) -> None:
    """Replace one integer attribute, or one of a list's integers, or a list's length."""
    names = [name for name, value in attributes.items() if isinstance(value, (int, list))]
    name = data.draw(st.sampled_from(sorted(names)))
    number = st.sampled_from(LARGE) | st.integers(-2, 12 if name in GEOMETRY else 200)
    if isinstance(attributes[name], int):
        attributes[name] = data.draw(number | near(attributes[name]))
        return
    values = list(attributes[name])
    at = data.draw(st.integers(0, len(values) - 1))
    values[at] = data.draw(number | near(values[at]))
    attributes[name] = data.draw(st.sampled_from((values, values, values[:-1] or values, [*values, values[at]])))


def spoil_bytes(data: st.DataObject, placed: Placed) -> None:
    """Overwrite a few bytes of a segment, most often where the indices are, or change its length."""
    level = data.draw(st.integers(0, len(placed.segments) - 1))
    segment = placed.segments[level]
    if data.draw(st.integers(0, 3)) == 0 or not len(segment):
        length = 4 * data.draw(st.integers(0, len(segment) // 4 + 32))
        placed.segments[level] = np.resize(np.append(segment, np.uint8(0)), length)
        return
    ptr, col = placed.attributes[0]["offsets"][4 * level : 4 * level + 2]
    begin = data.draw(st.sampled_from((ptr, col, max(placed.attributes[0]["permutation_offset"], 0), 0)))
    at = min(max(begin + data.draw(st.integers(0, 80)), 0), len(segment) - 1)  # the offset may be spoilt, too
    written = np.frombuffer(data.draw(st.binary(min_size=1, max_size=8)), np.uint8)
    segment[at : at + len(written)] = written[: len(segment) - at]
