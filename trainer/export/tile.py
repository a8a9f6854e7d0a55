"""Tiled images: the form of images that only our convolutions, pools and norms read (kernels/image.h).

The shape of such a tensor stays readable in the graph, as the name of its one dimension.
"""

from __future__ import annotations

import onnx_ir as ir

from nested_sparse.graph.contract import (
    CLIP_MIN,
    CONV,
    CONV_TRANSPOSE,
    DOMAIN,
    DOMAIN_VERSION,
    INPUT_TILED,
    MAX_POOL,
    NORM,
    SPATIAL_DIMENSIONS,
    VOLUME,
    Y_TILED,
    tiled_dimension,
)

from .nodes import is_ours, our_nodes, pool_window, rank_of

_IMAGE_RANKS = (3, 4, 5)


def tile_images(model: ir.Model) -> None:
    """Make TiledMaxPools of the pools between convolutions, and mark every image that can be tiled, at both ends."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain == "" and node.op_type == "MaxPool":
            _tile_max_pool(node)
    for node in our_nodes(model, NORM):
        rank = rank_of(node.outputs[0])
        if rank in (3, 5):
            node.attributes[SPATIAL_DIMENSIONS] = ir.AttrInt64(SPATIAL_DIMENSIONS, rank - 2)
    for node in our_nodes(model, CONV, MAX_POOL, NORM):
        (image,) = node.outputs
        if not _only_ours_read(image):
            continue
        if node.op_type != MAX_POOL:
            node.attributes[Y_TILED] = ir.AttrInt64(Y_TILED, 1)
        for use in image.uses():
            if use.node.op_type != MAX_POOL:
                name = INPUT_TILED[use.idx]
                use.node.attributes[name] = ir.AttrInt64(name, 1)
        if image.shape is not None:
            image.shape = ir.Shape([tiled_dimension(image.shape.dims)])


def _only_ours_read(image: ir.Value) -> bool:
    uses = image.uses()
    ours = all(
        is_ours(use.node, CONV, CONV_TRANSPOSE, MAX_POOL, NORM) and use.node.graph is image.graph for use in uses
    )
    # a norm may be of a tensor that is no image
    normed = any(is_ours(node, NORM) for node in (image.producer(), *(use.node for use in uses)))
    return bool(uses) and ours and not image.is_graph_output() and (not normed or rank_of(image) in _IMAGE_RANKS)


def _tile_max_pool(node: ir.Node) -> None:
    """Make a TiledMaxPool of a MaxPool between convolutions, if the clamp of the first leaves no negative value."""
    (image,) = node.inputs[:1]
    if image is None or not _only_ours_read(node.outputs[0]):
        return
    producer = image.producer()
    pools_alone = len(image.uses()) == 1 and not image.is_graph_output() and rank_of(image) in (4, 5)
    if producer is None or not pools_alone or not is_ours(producer, CONV) or producer.graph is not node.graph:
        return
    window = pool_window(node)
    if window is None or producer.attributes[CLIP_MIN].as_float() < 0 or set(window["kernel_shape"]) == {1}:
        return
    node.domain, node.op_type, node.version = DOMAIN, MAX_POOL, DOMAIN_VERSION
    node.attributes.clear()
    for name, values in window.items():
        node.attributes[name] = ir.AttrInt64s(name, values)
    if rank_of(image) == 5:
        node.attributes[SPATIAL_DIMENSIONS] = ir.AttrInt64(SPATIAL_DIMENSIONS, VOLUME)
