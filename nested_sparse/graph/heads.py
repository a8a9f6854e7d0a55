"""check_heads: whether an attention node can say where heads lie in its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..excerpt import excerpt
from ..wire import WireError
from .contract import (
    ATTENTION,
    CAUSAL,
    HEADS_RANK,
    INPUT_AXES,
    INPUT_PLACE,
    MASK_INPUT,
    MAX_PLACE,
    PACKED_RANK,
    Y_AXES,
)
from .told_shapes import Shape


def check_heads(given: Mapping[str, Any]) -> None:
    """Raises WireError where axes, a place or `causal` are out of range.

    given: all attributes by name. Ranks and sizes come with a run: the operator checks axes and places against them.
    """
    for name in (*INPUT_AXES.values(), Y_AXES):
        axes, last = given[name], (HEADS_RANK if name == Y_AXES else PACKED_RANK) - 2
        if len(axes) != HEADS_RANK - 1 or len(set(axes)) != len(axes) or not all(0 <= axis <= last for axis in axes):
            raise WireError(
                f"says {name} {excerpt(axes, 60)}, expected three different axes from 0 to {last}: those of batch, "
                "head and position"
            )
    for name, last in (*((each, MAX_PLACE) for each in INPUT_PLACE.values()), (CAUSAL, 1)):
        if not 0 <= given.get(name, 0) <= last:
            raise WireError(f"says {name} {given[name]}, expected 0 to {last}")


def check_head_shapes(
    inputs: Sequence[str], outputs: Sequence[str], given: Mapping[str, Any], shapes: Mapping[str, Shape]
) -> None:
    """Raises WireError where a node that `check_heads` has passed lacks a tensor, or its graph tells another shape.

    inputs, outputs: names, "" for an absent one. shapes: those that the graph tells, by name.
    """
    whole = len(inputs) in (MASK_INPUT, MASK_INPUT + 1) and all(inputs[:MASK_INPUT]) and len(outputs) == 1
    if not whole:
        raise WireError(
            f"has a {ATTENTION} of {len(inputs)} inputs and {len(outputs)} outputs, expected queries, keys, values and "
            "perhaps a mask, and one output"
        )
    for place, axes in INPUT_AXES.items():
        shape = shapes.get(inputs[place])
        if shape is None:
            continue
        if len(shape) not in (HEADS_RANK, PACKED_RANK) or max(given[axes]) >= len(shape) - 1:
            raise WireError(
                f"says {axes} {given[axes]} of a tensor of rank {len(shape)}, expected one of rank {HEADS_RANK} or "
                f"{PACKED_RANK} whose last axis is none of these"
            )
        part, parts = given.get(INPUT_PLACE[place], 0), _parts(shape, given[axes])
        if isinstance(parts, int) and part >= parts:
            raise WireError(f"says {INPUT_PLACE[place]} {part} of a tensor that has {parts} of them")
    for name in (*inputs[MASK_INPUT:], *outputs):
        if len(shapes.get(name, ())) > HEADS_RANK:
            raise WireError(f"has a mask or an output of {ATTENTION} of more than {HEADS_RANK} dimensions")


def _parts(shape: Shape, axes: Sequence[int]) -> int | str:
    """Size of the axis on which a place is meant; 1 where there is none."""
    if len(shape) == HEADS_RANK:
        return 1
    (packed,) = set(range(PACKED_RANK - 1)) - set(axes)
    return shape[packed]
