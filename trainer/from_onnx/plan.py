"""Plan: the graph of an ONNX file, in which layers and their weights are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import onnx_ir as ir

from nested_sparse.graph.contract import DOMAIN, DOMAIN_VERSION

from .found import Feed, Found, Make
from .segments import LAYER_NODE, PATH, Call, Runner, calls_of


class Plan:
    """The parts of a network that never change; a copy of a Plan is the Plan itself.

    graph: as in the file, but with inputs in place of the weights. found: its layers. feeds: the weights by input.
    names: of the inputs and outputs. batch: name of the free size that counts samples; "" without one. where: the file.
    """

    def __init__(
        self, graph: ir.Model, found: Sequence[Found], feeds: Mapping[str, Feed], inputs: int, batch: str, where: str
    ) -> None:
        self.graph, self.found, self.feeds, self.batch, self.where = graph, found, feeds, batch, where
        self.inputs = graph.graph.inputs[:inputs]
        self.input_names = [value.name or "" for value in self.inputs]
        self.output_names = [value.name or "" for value in graph.graph.outputs]

    def __deepcopy__(self, memo: Any) -> Plan:
        """Itself."""
        return self

    @cached_property
    def whole(self) -> Runner:
        """The graph in ONNX Runtime, with its weights as inputs."""
        return Runner(ir.to_proto(self.graph))

    @cached_property
    def calls(self) -> list[Call]:
        """The same in parts: layers, and the segments between them."""
        copied = self.graph.clone()

        def make(node: ir.Node) -> Make:
            def layer_node(path: str, inputs: Sequence[ir.Value], outputs: int) -> Sequence[ir.Value]:
                made = ir.node(LAYER_NODE, inputs, {PATH: path}, domain=DOMAIN, num_outputs=outputs, name=path)
                assert node.graph is not None
                node.graph.insert_before(node, made)
                for place, value in enumerate(made.outputs):
                    value.name, value.type = f"{path}.answer{place}", ir.TensorType(ir.DataType.FLOAT)
                return made.outputs

            return layer_node

        self.place(copied, {path for each in self.found for path in each.modules}, make)
        copied.graph.opset_imports[DOMAIN] = DOMAIN_VERSION
        return calls_of(copied)

    def place(self, model: ir.Model, paths: set[str], make: Any) -> None:
        """In `model`, a copy of the graph, replace the nodes of the layers at `paths`."""
        nodes = {node.name: node for node in model.graph}
        for each in self.found:
            if paths.issuperset(each.modules):
                each.place(nodes[each.node], make(nodes[each.node]))
