"""Choices: the outputs of a graph that depend on a choice among rounded scores, as boxes that a detector keeps do."""

from __future__ import annotations

from collections.abc import Iterable

from nested_sparse.graph.contract import DOMAIN
from nested_sparse.graph.nodes import GraphNode

CHOOSE = frozenset({"ArgMax", "ArgMin", "NonMaxSuppression", "TopK"})
"""Operators that choose by their first inputs. A small error of a score can change all that depends on the choice."""


def chosen_outputs(nodes: Iterable[GraphNode]) -> set[str]:
    """The tensors of a graph that depend on a choice among values of our operators.

    nodes: in the order of the graph. A choice by the inputs alone, such as the nearest points of a cloud, is exact and
    does not count. Values that a graph within a node takes from outside are not followed.
    """
    computed: set[str] = set()
    chosen: set[str] = set()
    for node in nodes:
        of_ours = node.domain == DOMAIN or not computed.isdisjoint(node.inputs)
        if of_ours:
            computed.update(node.outputs)
        if (of_ours and node.operator in CHOOSE) or not chosen.isdisjoint(node.inputs):
            chosen.update(node.outputs)
    return chosen
