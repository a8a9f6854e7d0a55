"""Tiled images: what only convolutions and the pools between them read is handed over tiled (kernels/image.h).

The shape of such a tensor stays readable in the graph as the name of its one dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from .nodes import RESIDUAL_INPUT, X_INPUT, is_ours, our_nodes, rank_of
from .placeholder import CONV, DOMAIN

MAX_POOL = "TiledMaxPool"  # MaxPool between two convolutions (kernels/max_pool.h)
_PREFIX = "tiled_"


def tiled_dimension(shape: Sequence[object]) -> str:
    """Name of a tiled image's one dimension (kernels/image.h): "tiled_batchx64x56x56".

    Equal names mean equal shapes: ONNX Runtime may then give an output the memory of the residual added to it.
    """
    return _PREFIX + "x".join(str(size) for size in shape)


def untiled_shape(dimensions: Sequence[int | str]) -> list[int | str]:
    """The image's shape where `dimensions` are those of a tiled image, else `dimensions`."""
    if len(dimensions) != 1 or not str(dimensions[0]).startswith(_PREFIX):
        return list(dimensions)
    sizes = str(dimensions[0]).removeprefix(_PREFIX).split("x")
    return [int(size) if size.isdecimal() else size for size in sizes]


def tile_images(model: ir.Model) -> None:
    """Make pools between convolutions ours and mark every image that can be tiled, at both ends."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain == "" and node.op_type == "MaxPool":
            _tile_max_pool(node)
    for node in our_nodes(model, CONV, MAX_POOL):
        (image,) = node.outputs
        if not _only_convolutions_read(image):
            continue
        if node.op_type == CONV:
            node.attributes["y_tiled"] = ir.AttrInt64("y_tiled", 1)
        for use in image.uses():
            if use.node.op_type == CONV:
                name = {X_INPUT: "x_tiled", RESIDUAL_INPUT: "residual_tiled"}[use.idx]
                use.node.attributes[name] = ir.AttrInt64(name, 1)
        if image.shape is not None:
            image.shape = ir.Shape([tiled_dimension(image.shape.dims)])


def _only_convolutions_read(image: ir.Value) -> bool:
    uses = image.uses()
    ours = all(is_ours(use.node, CONV, MAX_POOL) and use.node.graph is image.graph for use in uses)
    return bool(uses) and ours and not image.is_graph_output()


def _tile_max_pool(node: ir.Node) -> None:
    """Make a MaxPool between convolutions ours, where its input is a convolution's and has no negative values."""
    (image,) = node.inputs[:1]
    if image is None or len(node.outputs) != 1 or not _only_convolutions_read(node.outputs[0]):
        return
    producer = image.producer()
    pools_alone = len(image.uses()) == 1 and not image.is_graph_output() and rank_of(image) == 4
    if producer is None or not pools_alone or not is_ours(producer, CONV) or producer.graph is not node.graph:
        return
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    plain = given.get("ceil_mode", 0) == 0 and given.get("auto_pad", "NOTSET") == "NOTSET"
    if not plain or producer.attributes["clip_min"].as_float() < 0:
        return
    window = {
        "kernel_shape": list(given["kernel_shape"]),
        "strides": list(given.get("strides", (1, 1))),
        "pads": list(given.get("pads", (0, 0, 0, 0))),
        "dilations": list(given.get("dilations", (1, 1))),
    }
    if all(size == 1 for size in window["kernel_shape"]):
        return
    node.domain, node.op_type, node.version = DOMAIN, MAX_POOL, 1
    node.attributes.clear()
    for name, values in window.items():
        node.attributes[name] = ir.AttrInt64s(name, values)
