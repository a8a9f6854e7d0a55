"""Shapes: ONNX's operators that arrange, pick and repeat values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx.numpy_helper
import torch
import torch.nn.functional as F
from torch import Tensor

from .elementwise import fitting
from .node import Function, Node, Values, given, some, together, whole_numbers


def _identity(node: Node) -> Function:
    return lambda values: some(values[0])


def _reshape(node: Node) -> Function:
    kept = not node.get("allowzero", 0)

    def reshape(values: Values) -> Tensor:
        x, sizes = some(values[0]), whole_numbers(values[1])
        return x.reshape([x.shape[axis] if size == 0 and kept else size for axis, size in enumerate(sizes)])

    return reshape


def _flatten(node: Node) -> Function:
    axis = node.get("axis", 1)
    return lambda values: (x := some(values[0])).reshape(math.prod(x.shape[:axis]), -1)


def _transpose(node: Node) -> Function:
    order = node.get("perm")
    return lambda values: (x := some(values[0])).permute(order or tuple(reversed(range(x.ndim))))


def _concat(node: Node) -> Function:
    axis = node.get("axis")
    return lambda values: torch.cat([some(each) for each in together(values)], axis)


def _expand(node: Node) -> Function:
    def expand(values: Values) -> Tensor:
        x = some(values[0])
        shape: torch.Size = torch.broadcast_shapes(x.shape, tuple(whole_numbers(values[1])))  # type: ignore[no-untyped-call]
        return x.expand(shape)

    return expand


def _squeeze(node: Node) -> Function:
    def squeeze(values: Values) -> Tensor:
        x, axes = some(values[0]), given(values, 1)
        return x.squeeze() if axes is None else x.squeeze(tuple(whole_numbers(axes)))

    return squeeze


def _unsqueeze(node: Node) -> Function:
    def unsqueeze(values: Values) -> Tensor:
        x, axes = some(values[0]), whole_numbers(values[1])
        rank = x.ndim + len(axes)
        for axis in sorted(each % rank for each in axes):
            x = x.unsqueeze(axis)
        return x

    return unsqueeze


def _slice(node: Node) -> Function:
    def cut(values: Values) -> Tensor:
        x, starts, ends = some(values[0]), whole_numbers(values[1]), whole_numbers(values[2])
        axes, steps = given(values, 3), given(values, 4)
        along = range(len(starts)) if axes is None else whole_numbers(axes)
        by = [1] * len(starts) if steps is None else whole_numbers(steps)
        for start, end, axis, step in zip(starts, ends, along, by, strict=True):
            places = range(*slice(start, end, step).indices(x.shape[axis]))
            if step > 0:
                taken: list[Any] = [slice(None)] * x.ndim
                taken[axis] = slice(places.start, max(places.start, places.stop), step)
                x = x[tuple(taken)]
            else:
                x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=x.device))
        return x

    return cut


def _split(node: Node) -> Function:
    axis = node.get("axis", 0)

    def split(values: Values) -> Sequence[Tensor]:
        x, sizes = some(values[0]), given(values, 1)
        step = -(-x.shape[axis] // node.outputs)
        even = [min(step, max(0, x.shape[axis] - step * place)) for place in range(node.outputs)]
        return torch.split_with_sizes(x, even if sizes is None else whole_numbers(sizes), axis)

    return split


def _shape(node: Node) -> Function:
    start, end = node.get("start", 0), node.get("end")
    return lambda values: torch.tensor(some(values[0]).shape[start:end], dtype=torch.int64)


def _size(node: Node) -> Function:
    return lambda values: torch.tensor(some(values[0]).numel(), dtype=torch.int64)


def _gather(node: Node) -> Function:
    axis = node.get("axis", 0)

    def gather(values: Values) -> Tensor:
        x, places = map(some, together(values))
        at = axis % x.ndim
        rows = _in_range(node, places, x.shape[at]).reshape(-1)
        return x.index_select(at, rows).reshape(x.shape[:at] + places.shape + x.shape[at + 1 :])

    return gather


def _gather_elements(node: Node) -> Function:
    axis = node.get("axis", 0)

    def gather(values: Values) -> Tensor:
        x, places = map(some, together(values))
        return torch.gather(x, axis, _in_range(node, places, x.shape[axis]))

    return gather


def _in_range(node: Node, places: Tensor, size: int) -> Tensor:
    """Places from 0 to size - 1; negative ones count from the end. One out of range would end the whole process."""
    node.refuse(((places < -size) | (places >= size)).any(), f"a place is outside of -{size} to {size - 1}")
    return torch.where(places < 0, places + size, places).clamp(0, max(size - 1, 0)).to(torch.int64)


def _tile(node: Node) -> Function:
    return lambda values: some(values[0]).repeat(whole_numbers(values[1]))


def _range(node: Node) -> Function:
    def count(values: Values) -> Tensor:
        start, limit, delta = (some(each).item() for each in values)
        return torch.arange(start, limit, delta, dtype=some(values[0]).dtype)

    return count


def _constant_of_shape(node: Node) -> Function:
    held = node.get("value")
    value = torch.zeros(1) if held is None else torch.from_numpy(onnx.numpy_helper.to_array(held).copy())
    value = fitting(value, node.dtype) if value.is_floating_point() else value
    return lambda values: value.reshape([1] * len(sizes := whole_numbers(values[0]))).expand(sizes)


def _trilu(node: Node) -> Function:
    cut = torch.triu if node.get("upper", 1) else torch.tril

    def keep(values: Values) -> Tensor:
        diagonal = given(values, 1)
        return cut(some(values[0]), 0 if diagonal is None else whole_numbers(diagonal)[0])

    return keep


def _pad(node: Node) -> Function:
    mode = node.get("mode", b"constant").decode()
    if mode != "constant":
        raise ValueError(f"a Pad of mode {mode!r} is not known here")

    def pad(values: Values) -> Tensor:
        x, pads = some(values[0]), whole_numbers(values[1])
        constant, axes = given(values, 2), given(values, 3)
        along = range(x.ndim) if axes is None else [axis % x.ndim for axis in whole_numbers(axes)]
        wanted = [0] * (2 * x.ndim)
        for place, axis in enumerate(along):  # torch begins with the last axis
            wanted[2 * (x.ndim - 1 - axis)] = pads[place]
            wanted[2 * (x.ndim - 1 - axis) + 1] = pads[place + len(along)]
        return F.pad(x, wanted, value=0.0 if constant is None else constant.item())

    return pad


SHAPES: Mapping[str, Callable[[Node], Function]] = {
    "Identity": _identity,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Concat": _concat,
    "Expand": _expand,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Split": _split,
    "Shape": _shape,
    "Size": _size,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Tile": _tile,
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    "Trilu": _trilu,
    "Pad": _pad,
}
"""Makers of the functions, by operator."""
