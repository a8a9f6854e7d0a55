"""DenseAttention: ONNX's own nodes for attention."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from .contract import (
    CAUSAL,
    HEADS_RANK,
    INPUT_AXES,
    INPUT_PLACE,
    KEY_INPUT,
    MASK_INPUT,
    PACKED_RANK,
    QUERY_INPUT,
    SCALE,
    VALUE_INPUT,
    Y_AXES,
)
from .dense_nodes import Names, ReadNode, input_of
from .encoding import Value, node

_ORDER = (0, 1, 2, 3)
"""Axes of queries, keys and values here: batch, head, position, value."""


class DenseAttention:
    """ONNX's nodes for one node of attention, of version 18 of ONNX's operators or later.

    read: the node. Where the graph does not tell the rank of one of its inputs, that is the least one that its
    attributes allow.
    """

    def __init__(self, names: Names, read: ReadNode) -> None:
        self._names, self._read, self._values = names, read, read["values"]
        self._steps: list[tuple[str, list[str], str, Mapping[str, Value]]] = []

    def nodes(self) -> list[bytes | memoryview]:
        """They write the same output.

        ONNX Runtime makes one Split of the slices of a packed tensor, and joins the scale and the last Transpose of the
        keys with their product. Gather in place of Slice took 5 % longer with 27 positions, 4 heads of 16 values.
        """
        queries, keys, values = (self._parted(place) for place in (QUERY_INPUT, KEY_INPUT, VALUE_INPUT))
        mask = input_of(self._read, MASK_INPUT)
        plain = not mask and not self._values.get(CAUSAL)
        groups, heads = (None, None) if self._same_heads() else (self._rows_of(keys), self._rows_of(queries))
        if groups:  # the queries of all heads that share keys are the rows of one product
            queries = self._step("Reshape", [queries, groups])
        if self._values[SCALE] != 1.0:
            queries = self._step("Mul", [queries, self._number(self._values[SCALE])])
        swapped = self._step("Transpose", [keys], {"perm": [0, 1, 3, 2]})
        scores = self._step("MatMul", [queries, swapped])
        if heads and not plain:
            scores = self._step("Reshape", [scores, heads])
        mask = self._whole_mask(mask, scores)
        weights = self._step("Softmax", [self._step("Add", [scores, mask]) if mask else scores], {"axis": -1})
        if groups and not plain:
            weights = self._step("Reshape", [weights, groups])
        mixed = self._step("MatMul", [weights, values])
        if heads:
            mixed = self._step("Reshape", [mixed, heads])
        if input_of(self._read, MASK_INPUT):
            mixed = self._without_closed(mixed, mask)
        places = [self._values[Y_AXES].index(axis) for axis in range(HEADS_RANK - 1)]
        self._turned(mixed, [*places, HEADS_RANK - 1])
        return self._encoded()

    def _parted(self, place: int) -> str:
        """The queries, keys or values as (batch, head, position, value)."""
        x, axes = input_of(self._read, place), self._values[INPUT_AXES[place]]
        if self._rank(place) == HEADS_RANK:
            return self._turned(x, [*axes, HEADS_RANK - 1])
        (packed,) = set(_ORDER) - set(axes)
        part = self._values.get(INPUT_PLACE[place], 0)
        x = self._step("Slice", [x, *map(self._list, ([part], [part + 1], [packed]))])
        x = self._step("Transpose", [x], {"perm": [packed, *axes, PACKED_RANK - 1]})
        return self._step("Squeeze", [x, self._list([0])])

    def _rank(self, place: int) -> int:
        told = self._names.shape(input_of(self._read, place))
        if told is not None:
            return len(told)
        fourth = max(self._values[INPUT_AXES[place]]) == HEADS_RANK - 1
        return PACKED_RANK if fourth or self._values.get(INPUT_PLACE[place]) else HEADS_RANK

    def _turned(self, x: str, order: list[int]) -> str:
        """`x` with its axes in this order."""
        return x if order == list(_ORDER) else self._step("Transpose", [x], {"perm": order})

    def _same_heads(self) -> bool:
        """Whether the graph tells that queries have as many heads as keys."""
        of_queries, of_keys = (
            (self._names.shape(input_of(self._read, place)) or [""] * PACKED_RANK)[self._values[INPUT_AXES[place]][1]]
            for place in (QUERY_INPUT, KEY_INPUT)
        )
        return bool(of_queries != "" and of_queries == of_keys)

    def _rows_of(self, x: str) -> str:
        """The shape for a Reshape that leaves all but heads and positions, and makes as many heads as `x` has."""
        heads = self._step("Mul", [self._step("Shape", [x]), self._list([0, 1, 0, 0])])
        return self._step("Add", [heads, self._list([0, 0, -1, 0])])

    def _whole_mask(self, mask: str, scores: str) -> str:
        """The mask with minus infinity where a query may not see a key that comes later; "" where nothing is added."""
        if self._values.get(CAUSAL):
            size = self._step("Shape", [scores], {"start": 2})
            closed = self._step("Expand", [self._number(-math.inf), size])
            later = self._step("Trilu", [closed, self._names.initializer("one", np.array(1, np.int64))])
            return self._step("Add", [mask, later]) if mask else later
        if mask and not self._names.shape(mask):  # of rank 0, or of one that the graph does not tell
            return self._step("Add", [mask, self._names.initializer("zeros", np.zeros(1, np.float32))])
        return mask

    def _without_closed(self, mixed: str, mask: str) -> str:
        """0 where the mask closes every key: a Softmax over minus infinities is no number."""
        largest = self._step("ReduceMax", [mask, self._list([-1])], {"keepdims": 1})
        closed = self._step("Equal", [largest, self._number(-math.inf)])
        return self._step("Where", [closed, self._number(0.0), mixed])

    def _encoded(self) -> list[bytes | memoryview]:
        *_, (_, _, made, _) = self._steps
        written = {made: str(self._read["output"][0])}
        return [
            node(operator, inputs, [written.get(output, output)], self._names.name("", operator), attributes)
            for operator, inputs, output, attributes in self._steps
        ]

    def _step(self, operator: str, inputs: list[str], attributes: Mapping[str, Value] | None = None) -> str:
        output = self._names.name("", "y")
        self._steps.append((operator, inputs, output, attributes or {}))
        return output

    def _list(self, numbers: list[int]) -> str:
        return self._names.initializer(f"numbers {numbers}", np.array(numbers, np.int64))

    def _number(self, value: float) -> str:
        return self._names.initializer(f"number {value!r}", np.array(value, np.float32))
