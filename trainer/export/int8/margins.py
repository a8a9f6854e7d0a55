"""Margins: the rows of border and columns of gap of each u8 image, so that windows can read it without gathering.

A convolution of stride 1 reads an image in place where its output's rows are as long, the gap between rows holds the
columns beside an image's edge that its window takes, and the border the rows (kernels/quantized/image.h). Other
windows are gathered, which takes a tenth to a quarter less time from planes, that is with a border, than from tiles: in
planes, the pixels of a row lie side by side.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from nested_sparse.graph.contract import (
    QUANTIZED_ADD,
    QUANTIZED_CONV,
    QUANTIZED_MULTIPLY,
    RESIDUAL_INPUT,
    WINDOW,
    X_INPUT,
    Y_BORDER,
    Y_GAP,
    u8_dimension,
)

from ..nodes import our_nodes

MAX_BORDER = 8
GAP_SHARE = 0.25
"""Largest gap, as a share of an image's width: the gap is computed too, and gathering costs less above it."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Rows above or below, and columns beside an output's own pixel, that a window reads at most."""

    rows: int
    columns: int


def reach_of(node: ir.Node) -> Reach | None:
    """The reach of a convolution that can read in place; None for others.

    Those have another stride, outputs of another size, or slices, between which there is no border.
    """
    kernel, strides, pads, dilations = (_ints(node, name) for name in WINDOW)
    if len(kernel) != 2:
        return None
    spans = [gap * (size - 1) for size, gap in zip(kernel, dilations, strict=True)]
    same = all(before + after == span for before, after, span in zip(pads[:2], pads[2:], spans, strict=True))
    if any(step != 1 for step in strides) or not same:
        return None
    rows, columns = (max(before, span - before) for before, span in zip(pads[:2], spans, strict=True))
    return Reach(rows, columns)


def _ints(node: ir.Node, name: str) -> Sequence[int]:
    return node.attributes[name].as_ints()


def set_margins(model: ir.Model, images: Iterable[ir.Value]) -> None:
    """Set Y_BORDER and Y_GAP of the node behind each of `images`, all u8 images of the graph, and name its layout.

    Images that a convolution in place, or a sum, reads and writes have equal gaps, so that their rows are alike.
    """
    known = list(images)
    joined = _Joined()
    windows: list[tuple[ir.Value, Reach]] = []
    gathered: list[ir.Value] = []
    for node in our_nodes(model, QUANTIZED_CONV, QUANTIZED_ADD, QUANTIZED_MULTIPLY):
        places = {QUANTIZED_CONV: (X_INPUT, RESIDUAL_INPUT), QUANTIZED_ADD: (0, 1), QUANTIZED_MULTIPLY: (0,)}
        x, *others = (value for place in places[node.op_type] if (value := node.inputs[place]) is not None)
        reach = reach_of(node) if node.op_type == QUANTIZED_CONV else Reach(0, 0)
        for other in others:
            joined.join(other, node.outputs[0])
        if reach is None or reach.rows > MAX_BORDER or reach.columns > GAP_SHARE * _width(x):
            gathered += [x] if math.prod(_ints(node, "kernel_shape")) > 1 else []
            continue
        joined.join(x, node.outputs[0])
        windows.append((x, reach))
    gaps: dict[int, int] = defaultdict(int)
    borders: dict[int, int] = defaultdict(int)
    for x, reach in windows:
        gaps[joined.of(x)] = max(gaps[joined.of(x)], reach.columns)
        if reach != Reach(0, 0):
            borders[id(x)] = max(borders[id(x)], reach.rows, 1)
    for x in gathered:
        borders[id(x)] = max(borders[id(x)], 1)
    for image in known:
        maker = image.producer()
        assert maker is not None
        border, gap = borders[id(image)], gaps[joined.of(image)]
        maker.attributes[Y_BORDER] = ir.AttrInt64(Y_BORDER, border)
        maker.attributes[Y_GAP] = ir.AttrInt64(Y_GAP, gap)
        if image.shape is not None:
            image.shape = ir.Shape([u8_dimension(image.shape.dims, border, gap)])


def _width(image: ir.Value) -> int:
    size = image.shape[-1] if image.shape is not None else 1
    return size if isinstance(size, int) else 1


class _Joined:
    """Sets of values that grow together."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def of(self, value: ir.Value) -> int:
        """The set that holds `value`."""
        key = id(value)
        while self._parent.setdefault(key, key) != key:
            key = self._parent[key]
        return key

    def join(self, first: ir.Value, second: ir.Value) -> None:
        self._parent[self.of(first)] = self.of(second)
