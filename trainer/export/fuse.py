"""Fusion: placeholders become the runtime's operators, with norms, residual adds and clamps folded into them.

    [Pad] -> layer -> [level norm] -> [Add residual] -> [Relu | Clip]      becomes one operator of ours

ONNX Runtime cannot fuse a step into a custom operator, so the exporter does. A step is folded only where no other node
reads the value before it. Level norms that follow no nested layer become an operator of their own:

    level norm -> [Relu | Clip]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from nested_sparse.graph.contract import (
    ATTENTION,
    ATTENTION_VERSION,
    CLIP_MAX,
    CLIP_MIN,
    DOMAIN,
    DOMAIN_VERSION,
    FORMAT_VERSION,
    FUNCTION,
    INPUT_NORM_VERSION,
    LAYER,
    LAYER_OPERATORS,
    LINEAR,
    NORM,
    NORM_SCALE,
    PLACEMENT,
    GraphInput,
    layer_inputs,
    node_names,
    runtime_inputs,
)
from nested_sparse.placement import LayerPlacement

from .attention_views import absorb_views
from .nodes import OPEN, clamp_behind, following, is_ours, our_nodes, rank_of, same_shape
from .pads import fold_pads
from .placeholder import LEVEL_NORM, LEVEL_VALUE, LevelValues
from .trace import quiet_exporter, values_of

IR_VERSION = 9  # ONNX Runtime 1.17 reads it, and no graph here needs a later one


@dataclass(frozen=True, slots=True)
class FusedGraph:
    """The finished graph without the placements, which are known only when the file is laid out.

    norm_of: for each nested layer in the graph, in graph order, the level norm folded into it, or None.
    pads: pads of the layers that differ from those of the torch layer, as a Pad was folded into them.
    """

    model: ir.Model
    norm_of: dict[str, str | None]
    pads: dict[str, list[int]]

    @property
    def version(self) -> int:
        """The lowest version of the format of which readers know all that the graph uses beside its layers."""
        if any(NORM_SCALE in node.attributes for node in our_nodes(self.model, LINEAR)):
            return INPUT_NORM_VERSION
        if our_nodes(self.model, ATTENTION):
            return ATTENTION_VERSION
        newest = any(FUNCTION in node.attributes for node in our_nodes(self.model, *LAYER_OPERATORS))
        return FORMAT_VERSION if newest or our_nodes(self.model, NORM) else 1

    def to_bytes(self, placements: Mapping[str, LayerPlacement]) -> bytes:
        """The serialised ONNX model, in which each operator has the placement of its layer."""
        for node in our_nodes(self.model, *LAYER_OPERATORS):
            placement = placements[_layer(node)]
            for name, attribute in PLACEMENT.items():
                value = getattr(placement, name)
                if value == attribute.default:  # left out, so that older readers open all files that they can run
                    continue
                node.attributes[name] = ir.AttrInt64s(name, value) if attribute.many else ir.AttrInt64(name, value)
        with quiet_exporter():  # onnx_ir would warn that the bytes of a table are no text
            return ir.to_proto(self.model).SerializeToString(deterministic=True)


def fuse(
    model: ir.Model, norms: Mapping[str, NDArray[np.float64]], level_count: int, values: LevelValues | None = None
) -> FusedGraph:
    """Turn the traced graph into the one that is shipped, in place, but for the forms of images (tile.py, int8/).

    norms: (L, 2, C) scale and shift of every level norm, by dotted path.
    values: (L, ...) of every LevelValue, by name.
    """
    pads = fold_pads(model)
    absorb_views(model)
    norm_of = _foldable_norms(model)
    level, *segments = (_graph_input(each) for each in runtime_inputs(level_count))
    for node in our_nodes(model, *LAYER_OPERATORS):
        if norm_of[_layer(node)] is not None:
            _fold(node, following(node))
        x, *state = node.inputs
        kind = LAYER_OPERATORS[node.op_type]
        recurrent = bool(kind.gates)  # nothing is folded into it
        added = (state or [None])[0] if recurrent else _fold_residual(node) if kind.adds else None
        clip_min, clip_max = OPEN if recurrent else _fold_clamp(node)
        _set_inputs(node, layer_inputs(x, level, added, segments))
        node.attributes[CLIP_MIN] = ir.AttrFloat32(CLIP_MIN, clip_min)
        node.attributes[CLIP_MAX] = ir.AttrFloat32(CLIP_MAX, clip_max)
    _name_nodes(model)
    for node in our_nodes(model, LEVEL_NORM):
        _keep_norm(model, node, norms[_layer(node)], level)
    for node in our_nodes(model, LEVEL_VALUE):
        _spell_out_value(model, node, (values or {})[_layer(node)], level)
    model.graph.inputs.extend([level, *segments])
    _tidy(model)
    return FusedGraph(model, norm_of, pads)


def _graph_input(given: GraphInput) -> ir.Value:
    dtype = ir.DataType[given.dtype.upper()]
    return ir.Value(name=given.name, type=ir.TensorType(dtype), shape=ir.Shape(given.shape))


def _layer(node: ir.Node) -> str:
    return node.attributes[LAYER].as_string()


def _foldable_norms(model: ir.Model) -> dict[str, str | None]:
    """The level norm of each layer that follows the layer wherever it is used; None where there is no such norm.

    A layer that is used at two places with different norms keeps one copy of its weights, and its norms stay nodes.
    """
    found: dict[str, set[str | None]] = {}
    for node in our_nodes(model, *LAYER_OPERATORS):
        norm = following(node)
        # a norm's channels are dimension 1; the last dimension, where a linear layer has its rows, may be another one
        rows_dim = LAYER_OPERATORS[node.op_type].rows_dim
        fits = is_ours(norm, LEVEL_NORM) and (rows_dim == 1 or rows_dim + (rank_of(node.outputs[0]) or 0) == 1)
        found.setdefault(_layer(node), set()).add(_layer(norm) if norm is not None and fits else None)
    return {layer: next(iter(norms)) if len(norms) == 1 else None for layer, norms in found.items()}


def _fold(node: ir.Node, step: ir.Node | None) -> None:
    """Let `node` answer in place of `step`, and remove `step`."""
    assert step is not None
    assert step.graph is not None
    (result,), (answer,) = step.outputs, node.outputs
    name, answer.name = result.name, None
    ir.convenience.replace_all_uses_with(result, answer, replace_graph_outputs=True)
    step.graph.remove(step, safe=True)
    answer.name = name


def _fold_residual(node: ir.Node) -> ir.Value | None:
    """Fold an Add of two equal shapes, and return its other operand.

    No cycle can arise: only the Add reads this node's output, so the other operand cannot depend on this node.
    """
    add = following(node)
    if add is None or add.domain != "" or add.op_type != "Add":
        return None
    residual = add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]
    if residual is None or not same_shape(residual, node.outputs[0]) or residual.dtype != ir.DataType.FLOAT:
        return None
    _fold(node, add)
    return residual


def _fold_clamp(node: ir.Node) -> tuple[float, float]:
    """Fold a Relu or a Clip with constant bounds, and return the bounds; infinite where there are none."""
    clamp, bounds = clamp_behind(node)
    if clamp is not None:
        _fold(node, clamp)
    return bounds


def _set_inputs(node: ir.Node, inputs: list[ir.Value | None]) -> None:
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)


def _keep_norm(model: ir.Model, node: ir.Node, table: NDArray[np.float64], level: ir.Value) -> None:
    """Make an operator of a level norm that no layer took over.

    Where the level falls during a run, the operator has the level at which it starts; a folded norm always has its
    layer's level.
    """
    (x,) = node.inputs
    clip_min, clip_max = _fold_clamp(node)
    node.op_type = NORM
    layer = _layer(node)
    parts = [
        _initializer(model, f"{layer}.{name}", table[:, part].astype(np.float32))
        for part, name in enumerate(("scale", "shift"))
    ]
    _set_inputs(node, [x, level, *parts])
    del node.attributes[LAYER]
    node.attributes[CLIP_MIN] = ir.AttrFloat32(CLIP_MIN, clip_min)
    node.attributes[CLIP_MAX] = ir.AttrFloat32(CLIP_MAX, clip_max)


def _spell_out_value(model: ir.Model, node: ir.Node, table: NDArray[Any], level: ir.Value) -> None:
    """Replace a tensor that differs from level to level by a Gather from the tensors of all levels."""
    assert node.graph is not None
    (answer,) = node.outputs
    picked = ir.node(
        "Gather", [_initializer(model, _layer(node), table), level], attributes={"axis": 0}, name=node.name
    )
    picked.outputs[0].shape, picked.outputs[0].type = answer.shape, answer.type
    node.graph.insert_before(node, picked)
    ir.convenience.replace_all_uses_with(answer, picked.outputs[0], replace_graph_outputs=True)
    node.graph.remove(node, safe=True)
    picked.outputs[0].name = answer.name


def _name_nodes(model: ir.Model) -> None:
    """Name each operator after its layer (contract.node_names): profiles and viewers show these names."""
    nodes = our_nodes(model, *LAYER_OPERATORS)
    for node, name in zip(nodes, node_names(map(_layer, nodes)), strict=True):
        node.name = name


def _initializer(model: ir.Model, name: str, values: NDArray[Any]) -> ir.Value:
    """The initializer of that name and rank, made at its first use; a norm may be used at several places."""
    name = f"{name}.rank{values.ndim - 1}"
    if name not in model.graph.initializers:
        tensor = ir.tensor(values, name=name)
        value = ir.Value(name=name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        model.graph.register_initializer(value)
    return model.graph.initializers[name]


def _tidy(model: ir.Model) -> None:
    """Sort the nodes again, and remove unused parts and traces of the machine that exported the model."""
    model.graph.sort()
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    common.RemoveUnusedOpsetsPass()(model)
    common.ClearMetadataAndDocStringPass()(model)  # that of the nodes; values and the model have metadata too
    for value in values_of(model):
        value.metadata_props.clear()
        value.doc_string = None
    model.metadata_props.clear()
    model.doc_string = None
    model.opset_imports[DOMAIN] = DOMAIN_VERSION
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "nested-sparse", None
