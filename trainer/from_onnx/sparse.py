"""sparse: tensors that a file holds as their values other than zero, and their places, as dense ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from nested_sparse.errors import ExportError
from nested_sparse.excerpt import excerpt

MOST_BYTES = (1 << 31) - 1
"""Most bytes of all of them, dense: those of a model that one file can hold."""


def made_dense(model: onnx.ModelProto, where: str) -> None:
    """Replace, in place, the sparse initializers and the sparse Constants of `model`, also in graphs inside it.

    where: the file, for messages. Raises ExportError: one is no valid sparse tensor, or dense they are too large.
    """
    room = MOST_BYTES
    for graph in _graphs(model):
        for sparse in graph.sparse_initializer:
            dense, room = _dense(sparse, where, room)
            graph.initializer.append(dense)
        del graph.sparse_initializer[:]
    for node in _nodes(model):
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "sparse_value":
                dense, room = _dense(attribute.sparse_tensor, where, room)
                attribute.CopyFrom(onnx.helper.make_attribute("value", dense))


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield model.graph
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield attribute.g
            yield from attribute.graphs


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    left = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while left:
        node = left.pop()
        yield node
        for attribute in node.attribute:
            left += [each for graph in (attribute.g, *attribute.graphs) for each in graph.node]


def _dense(sparse: onnx.SparseTensorProto, where: str, room: int) -> tuple[onnx.TensorProto, int]:
    """The dense tensor, and the bytes left of `room`."""
    name, shape = sparse.values.name, [*sparse.dims]
    said = f"{where}: sparse tensor {excerpt(name)!r} of shape {excerpt(shape)}"
    if onnx.TensorProto.EXTERNAL in (sparse.values.data_location, sparse.indices.data_location):
        raise ExportError(f"{said} has its values in another file, which is not read; save the model as one file")
    try:
        values, places = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    except Exception as error:  # of onnx or numpy, for what protobuf reads from any bytes
        raise ExportError(f"{said} cannot be read ({excerpt(error)}); export the model again") from error
    if values.dtype.kind in "OSU" or min(shape, default=1) < 0:
        raise ExportError(f"{said} has values of type {values.dtype}; expected numbers, and sizes from 0 on")
    size = math.prod(shape)
    if size * values.itemsize > room:
        raise ExportError(
            f"{said}: the sparse tensors have more than {MOST_BYTES} bytes when they are dense, which is the most; "
            "nest a smaller model"
        )
    flat = _flat_places(places, shape, len(values) if values.ndim == 1 else -1)
    if flat is None:
        raise ExportError(
            f"{said} has {list(values.shape)} values at places {places.dtype} {list(places.shape)}; expected [count] "
            f"values, and [count] or [count, {len(shape)}] places inside of the shape; export the model again"
        )
    dense = np.zeros(size, values.dtype)
    dense[flat] = values
    return numpy_helper.from_array(dense.reshape(shape), name), room - dense.nbytes


def _flat_places(places: NDArray[Any], shape: list[int], count: int) -> NDArray[np.int64] | None:
    """The places in the flat tensor; None where they are not `count` places inside of it."""
    if places.dtype != np.int64 or places.shape not in ((count,), (count, len(shape))):
        return None
    bounds = np.array([math.prod(shape)] if places.ndim == 1 else shape, np.int64)
    by_axis = places.reshape(count, len(bounds))
    if ((by_axis < 0) | (by_axis >= bounds)).any():
        return None
    steps = [1] if places.ndim == 1 else [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    flat: NDArray[np.int64] = by_axis @ np.array(steps, np.int64)
    return flat
