"""Found: a node of an ONNX graph with a weight of its own, and the torch layers that do its work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Layers = Callable[[str], Any]
"""The layer at a dotted path, of the network that runs."""
Feed = Callable[[Layers], Tensor]
"""A weight or bias as the graph's own node takes it, from the layers as they are now."""
Make = Callable[[str, Sequence[ir.Value], int], Sequence[ir.Value]]
"""Makes, in front of the node, the node of the layer at a path: from its inputs and the number of its outputs."""


@dataclass
class Found(ABC):
    """A node whose weights became those of torch layers.

    node: its name in the graph. modules: the layers by dotted path.
    feeds: in the graph that runs as in the file, the inputs that hold the weights, by name.
    """

    node: str
    modules: dict[str, nn.Module]
    feeds: dict[str, Feed] = field(default_factory=dict)

    @abstractmethod
    def place(self, node: ir.Node, make: Make) -> None:
        """Replace `node`, in a copy of the graph, by nodes of the layers."""


def fed_input(model: ir.Model, name: str, shape: Sequence[int], dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    """A new input of the graph for a weight."""
    value = ir.Value(name=name, shape=ir.Shape(list(shape)), type=ir.TensorType(dtype))
    model.graph.inputs.append(value)
    return value


def weight_of(array: NDArray[Any]) -> nn.Parameter:
    """A parameter with a copy of the values."""
    return nn.Parameter(torch.from_numpy(np.array(array, np.float32, order="C")), requires_grad=False)


def answer_by(node: ir.Node, old: ir.Value, new: ir.Value) -> None:
    """Let `new` take the place of `old`, an output of `node`, with its name, type and shape."""
    name, old.name = old.name, f"{old.name}.replaced"
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.name, new.type, new.shape = name, old.type, old.shape


def removed(node: ir.Node) -> None:
    """Remove a node that no other one reads."""
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def in_front(node: ir.Node, *nodes: ir.Node) -> None:
    """Put `nodes` in front of `node`, in its graph."""
    assert node.graph is not None
    node.graph.insert_before(node, nodes)


def constant_in(node: ir.Node, name: str, array: NDArray[Any]) -> ir.Value:
    """A new constant of the graph of `node`."""
    assert isinstance(node.graph, ir.Graph)
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    node.graph.register_initializer(value)
    return value


def whole_numbers(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    """An attribute that is a list of whole numbers."""
    return [*node.attributes[name].as_ints()] if name in node.attributes else [*default]


def number(node: ir.Node, name: str, default: float) -> float:
    """An attribute that is one number."""
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.value)


def text(node: ir.Node, name: str, default: str) -> str:
    """An attribute that is a text."""
    return node.attributes[name].as_string() if name in node.attributes else default
