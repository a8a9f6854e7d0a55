"""told_shapes: the shapes of tensors that a graph tells."""

from __future__ import annotations

from ..wire import varint
from . import onnx_schema as onnx
from .encoding import fields, number_of

Shape = list[int | str]
"""Sizes of a tensor, or their names; "" for one that has neither."""


def told_shapes(graph: memoryview) -> dict[str, Shape]:
    """The shapes of inputs, outputs and values of a GraphProto, by name; without scalars and shapes that are not told.

    Nothing holds ONNX Runtime or an operator to them. Raises WireError where the types are no protobuf messages.
    """
    numbers = {number_of(onnx.GRAPH, name) for name in ("input", "output", "value_info")}
    described = [graph[value:end] for number, _, value, end in fields(graph) if number in numbers]
    shapes = {text(each, 1): _shape(each) for each in described}
    return {name: shape for name, shape in shapes.items() if shape}


def inner(data: memoryview, *numbers: int) -> memoryview:
    """The first field of these numbers, each within the one before; empty where there is none."""
    for number in numbers:
        data = next((data[value:end] for found, _, value, end in fields(data) if found == number), data[:0])
    return data


def text(data: memoryview, number: int) -> str:
    """The first field of this number, a text; "" where there is none."""
    return bytes(inner(data, number)).decode(errors="replace")


def _shape(described: memoryview) -> Shape:
    """That of the tensor of a ValueInfoProto."""
    shape = inner(described, 2, 1, 2)
    return [_size(shape[value:end]) for number, _, value, end in fields(shape) if number == 1]


def _size(dimension: memoryview) -> int | str:
    for number, _, value, end in fields(dimension):
        if number == 1:
            return varint(dimension, value, end)[0]
    return text(dimension, 2)
