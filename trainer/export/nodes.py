"""Nodes: the operators of our domain among the nodes of a graph."""

from __future__ import annotations

import onnx_ir as ir

from nested_sparse.graph.contract import DOMAIN


def our_nodes(model: ir.Model, *operators: str) -> list[ir.Node]:
    """Every node of one of these operators of ours, also in subgraphs."""
    return [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if is_ours(node, *operators)]


def is_ours(node: ir.Node | None, *operators: str) -> bool:
    """Whether `node` is one of these operators of ours."""
    return node is not None and node.domain == DOMAIN and node.op_type in operators


def rank(value: ir.Value) -> int | None:
    """Number of dimensions of `value`; None where it is not known."""
    return None if value.shape is None else value.shape.rank()
