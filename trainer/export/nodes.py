"""Our operators among the nodes of a graph."""

from __future__ import annotations

import onnx_ir as ir

from nested_sparse.graph.contract import DOMAIN


def our_nodes(model: ir.Model, *operators: str) -> list[ir.Node]:
    """Every node that is one of these operators of ours, subgraphs' too."""
    return [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if is_ours(node, *operators)]


def is_ours(node: ir.Node | None, *operators: str) -> bool:
    """Whether it is one of these operators of ours."""
    return node is not None and node.domain == DOMAIN and node.op_type in operators


def rank(value: ir.Value) -> int | None:
    """Its number of dimensions, None where that is not known."""
    return None if value.shape is None else value.shape.rank()
