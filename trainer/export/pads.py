"""Pads: zeros that a Pad puts around an image, taken into the window of the convolution behind it.

TensorFlow's padding ("same" with strides) is such a Pad in models that come from there: MobileNetV2 in transformers,
timm's Conv2dSame.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from nested_sparse.graph.contract import CONV, LAYER, WINDOW, X_INPUT

from .nodes import constant_of, our_nodes, rank_of

PADS = WINDOW[2]
MOST = 4096
"""Most rows or columns of zeros on a side; more are left to the Pad."""


def fold_pads(model: ir.Model) -> dict[str, list[int]]:
    """Let each convolution of ours read the image before the Pad in front of it, in place.

    Returns the new pads, in the form of the attribute, of the layers that changed. A layer that is used at several
    places changes only where all of them have equal pads. A Pad that has no readers left stays in the graph.
    """
    uses: dict[str, list[ir.Node]] = defaultdict(list)
    for node in our_nodes(model, CONV):
        uses[node.attributes[LAYER].as_string()].append(node)
    changed = {}
    for layer, nodes in uses.items():
        pads = [_pads_in_front(node) for node in nodes]
        if pads[0] is None or any(each != pads[0] for each in pads):
            continue
        for node in nodes:
            image = node.inputs[X_INPUT]
            pad = None if image is None else image.producer()
            assert pad is not None
            node.replace_input_with(X_INPUT, pad.inputs[0])
            node.attributes[PADS] = ir.AttrInt64s(PADS, pads[0])
        changed[layer] = pads[0]
    return changed


def _pads_in_front(node: ir.Node) -> list[int] | None:
    """The pads that `node` has together with the Pad in front of it; None where there is none, or not of zeros."""
    image = node.inputs[X_INPUT]
    pad = None if image is None else image.producer()
    if pad is None or pad.domain != "" or pad.op_type != "Pad" or pad.graph is not node.graph:
        return None
    mode = pad.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return None
    before, sizes, value, axes = [*pad.inputs, None, None][:4]
    rank = None if before is None else rank_of(before)
    found, filled, at = (constant_of(each) for each in (sizes, value, axes))
    unknown = (value is not None and filled is None) or (axes is not None and at is None)
    if rank is None or found is None or unknown or (filled is not None and np.any(filled)):
        return None
    added = np.zeros((2, rank), np.int64)
    added[:, range(rank) if at is None else at.tolist()] = found.reshape(2, -1)
    spatial = rank - 2
    if added[:, :-spatial].any() or added.min() < 0:
        return None
    zeros = [0] * (spatial == 1)
    inside = [*zeros, *added[0, -spatial:].tolist(), *zeros, *added[1, -spatial:].tolist()]
    return _sum(node.attributes[PADS].as_ints(), inside)


def _sum(first: Sequence[int], second: Sequence[int]) -> list[int] | None:
    total = [a + b for a, b in zip(first, second, strict=True)]
    return total if max(total) <= MOST else None
