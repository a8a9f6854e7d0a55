"""Attention views: transposes and cuts in front of attention, and behind it, become attributes of the operator.

A packed projection (N, L, 3, H, E) is then all three inputs of the operator, which reads each part where it lies. Keys
and values that are repeated for several heads are read once. As nodes, these steps took a third of the time of the GPT
in docs/families.md at its sparsest level (docs/decisions/066).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from nested_sparse.graph.contract import (
    ATTENTION,
    HEADS_RANK,
    INPUT_AXES,
    INPUT_PLACE,
    KEY_INPUT,
    PACKED_RANK,
    VALUE_INPUT,
    Y_AXES,
)

from .nodes import constant_of, following, our_nodes, same_size


@dataclass(frozen=True, slots=True)
class _View:
    """An input of attention: `value`, its axes of batch, head and position, and the index on the axis that is left."""

    value: ir.Value
    axes: tuple[int, ...]
    place: int

    @property
    def rank(self) -> int:
        return HEADS_RANK if self.value.shape is None else len(self.value.shape)


def absorb_views(model: ir.Model) -> None:
    """Let attention read what the steps in front of it read, and write what a Transpose behind it writes, in place.

    Steps that others read too stay for these.
    """
    packed: dict[tuple[int, ...], ir.Value] = {}
    for node in our_nodes(model, ATTENTION):
        views = {at: _first(_given(node, at), model, packed) for at in INPUT_AXES}
        groups = {at: _unrepeated(views[at]) for at in (KEY_INPUT, VALUE_INPUT)}
        found = [each for each in groups.values() if each is not None]
        if len(found) == 2 and found[0][0] == found[1][0]:
            views |= {at: _first(each[1], model, packed) for at, each in zip(groups, found, strict=True)}
        for at, view in views.items():
            node.replace_input_with(at, view.value)
            node.attributes[INPUT_AXES[at]] = ir.AttrInt64s(INPUT_AXES[at], view.axes)
            node.attributes[INPUT_PLACE[at]] = ir.AttrInt64(INPUT_PLACE[at], view.place)
        _absorb_behind(node)


def _given(node: ir.Node, at: int) -> _View:
    value = node.inputs[at]
    assert value is not None
    axes, place = node.attributes[INPUT_AXES[at]], node.attributes[INPUT_PLACE[at]]
    return _View(value, tuple(axes.as_ints()), place.as_int())


def _first(view: _View, model: ir.Model, packed: dict[tuple[int, ...], ir.Value]) -> _View:
    """The same values as many steps earlier as there are views."""
    while (before := _before(view, model, packed)) is not None:
        view = before
    return view


def _unrepeated(view: _View) -> tuple[int, _View] | None:
    """Where each head of (N, G, S, E) was repeated in place, as repeat_interleave does: G, and the heads before."""
    steps: list[ir.Node] = []
    value = view.value
    for operator in ("Reshape", "Expand", "Unsqueeze"):
        step = value.producer()
        if step is None or step.domain or step.op_type != operator:
            return None
        steps.append(step)
        value = _input(step)
    axes = _numbers(steps[-1].inputs[1]) if len(steps[-1].inputs) > 1 else None
    before, after = value.shape, view.value.shape
    if before is None or after is None or len(before) != HEADS_RANK or len(after) != HEADS_RANK:
        return None
    groups, heads = before[1], after[1]
    others = all(same_size(before[axis], after[axis]) for axis in (0, 2, 3))
    if view.axes != (0, 1, 2) or axes != [2] or not others or not isinstance(groups, int) or not isinstance(heads, int):
        return None
    return groups, _View(value, view.axes, 0)


def _before(view: _View, model: ir.Model, packed: dict[tuple[int, ...], ir.Value]) -> _View | None:
    """The same values one step earlier; None where that is no view. packed: projections that have been made rank 5."""
    step = view.value.producer()
    if step is None or step.domain:
        return None
    if step.op_type == "Transpose":
        perm = _perm(step)
        if perm is None or len(perm) != view.rank:
            return None
        return replace(view, value=_input(step), axes=tuple(perm[axis] for axis in view.axes))
    if view.rank != HEADS_RANK:
        return None
    if step.op_type == "Reshape":
        return _of_projection(view, step, model, packed)
    picked = _picked(step)
    if picked is None or picked[0].shape is None or len(picked[0].shape) != PACKED_RANK:
        return None
    source, axis, place = picked
    return _View(source, tuple(each + (each >= axis) for each in view.axes), place)


def _perm(step: ir.Node) -> list[int] | None:
    """The permutation of a Transpose that leaves the last axis where it is."""
    given = step.attributes.get("perm")
    perm = [] if given is None else list(given.as_ints())
    return perm if perm and perm[-1] == len(perm) - 1 else None


def _input(step: ir.Node) -> ir.Value:
    value = step.inputs[0]
    assert value is not None
    return value


def _picked(step: ir.Node) -> tuple[ir.Value, int, int] | None:
    """The tensor of which `step` picks an index on an axis that is not the last; the axis; the index."""
    source, *rest = step.inputs
    if source is None or source.shape is None:
        return None
    if step.op_type == "Gather":
        index = constant_of(rest[0])
        axis = step.attributes["axis"].as_int() if "axis" in step.attributes else 0
        if index is None or index.ndim:
            return None
        return _index(source, axis, int(index))
    if step.op_type != "Squeeze" or not rest or (axes := _numbers(rest[0])) is None or len(axes) != 1:
        return None
    cut = source.producer()
    part = None if cut is None else _part(cut, source)
    if part is None or part[1] != axes[0] % len(source.shape) or part[3] != 1:
        return None
    return _index(part[0], part[1], part[2])


def _index(source: ir.Value, axis: int, index: int) -> tuple[ir.Value, int, int] | None:
    assert source.shape is not None
    axis %= len(source.shape)
    size = source.shape[axis]
    if axis == len(source.shape) - 1 or not isinstance(size, int) or not -size <= index < size:
        return None
    return source, axis, index % size


def _part(cut: ir.Node, value: ir.Value) -> tuple[ir.Value, int, int, int] | None:
    """The tensor of which a Slice or Split cuts `value`, the axis, the first index, and the number of indices."""
    source = cut.inputs[0]
    if cut.domain or source is None or source.shape is None or value.shape is None:
        return None
    rank = len(source.shape)
    if cut.op_type == "Split":
        axis = (cut.attributes["axis"].as_int() if "axis" in cut.attributes else 0) % rank
        sizes = [None if each.shape is None else each.shape[axis] for each in cut.outputs]
        known = [size for size in sizes if isinstance(size, int)]
        at = next(i for i, each in enumerate(cut.outputs) if each is value)
        return (source, axis, sum(known[:at]), known[at]) if len(known) == len(sizes) else None
    if cut.op_type != "Slice" or len(cut.inputs) < 4:
        return None
    bounds = [_numbers(each) for each in cut.inputs[1:]]
    if any(each is None or len(each) != 1 for each in bounds) or bounds[3:] not in ([], [[1]]):
        return None
    (start,), (end,), (axis,) = (each or [] for each in bounds[:3])
    size = source.shape[axis]
    if not isinstance(size, int):
        return None
    first, last, _ = slice(start, end).indices(size)
    return (source, axis % rank, first, last - first) if last > first else None


def _numbers(value: ir.Value | None) -> list[int] | None:
    array = constant_of(value)
    return None if array is None else [int(each) for each in array.reshape(-1)]


def _of_projection(
    view: _View, step: ir.Node, model: ir.Model, packed: dict[tuple[int, ...], ir.Value]
) -> _View | None:
    """Where `step` makes (N, L, H, E) of an equal part of (N, L, n H E): the whole as (N, L, n, H, E)."""
    cut = _input(step).producer()
    part = None if cut is None else _part(cut, _input(step))
    flat, heads = _input(step).shape, view.value.shape
    if part is None or flat is None or heads is None or len(flat) != HEADS_RANK - 1 or part[1] != len(flat) - 1:
        return None
    source, _, first, size = part
    sizes = [each for each in (None if source.shape is None else source.shape[-1], *heads[2:]) if isinstance(each, int)]
    if len(sizes) != 3 or not all(same_size(flat[axis], heads[axis]) for axis in (0, 1)):
        return None
    width, count, values = sizes
    if size != count * values or first % size or width % size:
        return None
    assert cut is not None
    key = (id(source), id(cut.graph), size, count)
    if key not in packed:
        name = f"{source.name}.heads.{len(packed)}"
        packed[key] = _reshaped(model, source, cut, name, [width // size, count, values])
    return _View(packed[key], tuple(axis + (axis >= 2) for axis in view.axes), first // size)


def _reshaped(model: ir.Model, source: ir.Value, before: ir.Node, name: str, sizes: Sequence[int]) -> ir.Value:
    """`source`, (N, L, n H E), as (N, L, n, H, E), by a node called `name` in front of `before`. sizes: n, H, E."""
    assert before.graph is not None
    assert source.shape is not None
    tensor = ir.tensor(np.array([0, 0, *sizes], np.int64), name=f"{name}.shape")  # 0: as it is
    shape = ir.Value(
        name=tensor.name, shape=ir.Shape([PACKED_RANK]), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    model.graph.register_initializer(shape)
    node = ir.node("Reshape", [source, shape], name=name)
    (result,) = node.outputs
    result.name, result.type = name, source.type
    result.shape = ir.Shape([*source.shape.dims[:2], *sizes])
    before.graph.insert_before(before, node)
    return result


def _absorb_behind(node: ir.Node) -> None:
    """Let the operator write what a Transpose behind it makes of its output."""
    step = following(node)
    if step is None or step.domain or step.op_type != "Transpose" or (perm := _perm(step)) is None:
        return
    assert step.graph is not None
    (answer,), (result,) = node.outputs, step.outputs
    axes = [perm.index(axis) for axis in node.attributes[Y_AXES].as_ints()]
    node.attributes[Y_AXES] = ir.AttrInt64s(Y_AXES, axes)
    name, answer.name, answer.shape = result.name, None, result.shape
    ir.convenience.replace_all_uses_with(result, answer, replace_graph_outputs=True)
    step.graph.remove(step, safe=True)
    answer.name = name
