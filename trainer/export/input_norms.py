"""InputNorms: LayerNorms in front of linear layers, of which the layers take over the work (decision 070)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from nested_sparse.graph.contract import LINEAR, NORM_EPSILON, NORM_SCALE, NORM_SHIFT, X_INPUT

from .nodes import constant_of, is_ours, our_nodes, rank_of

MOST_READERS = 4
"""A norm that more layers read stays a node: each would compute it again, and a node takes about as long as four."""
_EPSILON = 1e-5  # ONNX's default


def fold_input_norms(model: ir.Model) -> None:
    """Let each float linear layer of `model`, a fused graph, compute the LayerNorm of its inputs, in place.

    A norm is folded where nothing but linear layers reads it, as what they multiply.
    """
    folded = False
    for norm in _norms_read(model):
        tables = _tables(norm)
        readers = [(use.node, use.idx) for use in norm.outputs[0].uses()]
        if tables is None or not 0 < len(readers) <= MOST_READERS or norm.outputs[0].is_graph_output():
            continue
        if not all(is_ours(reader, LINEAR) and place == X_INPUT for reader, place in readers):
            continue
        epsilon = norm.attributes.get_float("epsilon", _EPSILON)
        for reader, _ in readers:
            reader.replace_input_with(X_INPUT, norm.inputs[0])
            for name, values in zip((NORM_SCALE, NORM_SHIFT), tables, strict=True):
                reader.attributes[name] = ir.AttrFloat32s(name, values.tolist())
            reader.attributes[NORM_EPSILON] = ir.AttrFloat32(NORM_EPSILON, epsilon)
        folded = True
    if folded:
        common.RemoveUnusedNodesPass()(model)


def _norms_read(model: ir.Model) -> list[ir.Node]:
    """The LayerNorms that linear layers multiply, each once."""
    made = [each.inputs[X_INPUT] for each in our_nodes(model, LINEAR)]
    nodes = [value.producer() for value in made if value is not None]
    return list({id(node): node for node in nodes if node is not None and _is_norm(node)}.values())


def _is_norm(node: ir.Node) -> bool:
    """Whether it is ONNX's LayerNormalization over the last axis, whose mean and deviation nothing reads."""
    if node.domain != "" or node.op_type != "LayerNormalization" or node.inputs[0] is None:
        return False
    axis, rank = node.attributes.get_int("axis", -1), rank_of(node.inputs[0])
    last = axis == -1 or (rank is not None and axis == rank - 1)
    return last and not any(output.uses() or output.is_graph_output() for output in node.outputs[1:])


def _tables(norm: ir.Node) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Scale and shift, each (K,); None where they are no constants of float32, one for each input."""
    given = [*norm.inputs[1:], None][:2]
    scale = constant_of(given[0])
    shift = np.zeros_like(scale) if scale is not None and given[1] is None else constant_of(given[1])
    if scale is None or shift is None or scale.dtype != np.float32:
        return None
    fits = scale.ndim == 1 and scale.shape == shift.shape and scale.dtype == shift.dtype
    return (scale, shift) if fits else None
