"""Segments: the parts of a graph between its layers, which ONNX Runtime runs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor

from nested_sparse.errors import ExportError
from nested_sparse.excerpt import excerpt
from nested_sparse.graph.contract import DOMAIN

from ..entry import described
from .products_left import LEFT

LAYER_NODE, PATH = "Layer", "layer"
"""Operator and attribute of a node that stands for a layer."""

Value = Any
"""A value of the graph: a Tensor, or a list of arrays where it is a sequence."""


class Runner:
    """A graph, or the file at a path, open in ONNX Runtime; copies of it are itself, as it holds no state.

    inputs, outputs: names in the order of the graph. types: of the outputs, as ONNX Runtime writes them.
    """

    def __init__(self, model: onnx.ModelProto | Path, *, optimise: bool = True) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_ENABLE_BASIC
        try:
            self._session = onnxruntime.InferenceSession(
                str(model) if isinstance(model, Path) else model.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # ONNX Runtime's own, one class for each kind
            raise ExportError(f"ONNX Runtime cannot load the graph: {described(error)}") from error
        self.inputs = [each.name for each in self._session.get_inputs()]
        self.types: dict[str, str] = {each.name: each.type for each in self._session.get_outputs()}
        self.outputs = [*self.types]

    def run(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """The outputs by name, from values that may be more than the inputs."""
        feeds = {name: _array(values[name]) for name in self.inputs}
        try:
            answers = self._session.run(self.outputs, feeds)
        except Exception as error:
            shapes = {name: list(np.shape(each)) for name, each in feeds.items()}
            raise ExportError(f"ONNX Runtime cannot run the graph on {excerpt(shapes)}: {described(error)}") from error
        return {name: _value(each) for name, each in zip(self.outputs, answers, strict=True)}

    def __deepcopy__(self, memo: Any) -> Runner:
        """Itself."""
        return self


_TYPES = {
    "float": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "double": ir.DataType.DOUBLE,
    **{name: ir.DataType[name.upper()] for name in ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32")},
    **{name: ir.DataType[name.upper()] for name in ("int64", "uint64", "bfloat16", "string")},
}


def find_types(model: ir.Model) -> None:
    """Give the values of `model` that have no type the one that ONNX Runtime finds. Raises ExportError."""
    unknown = {value.name: value for node in model.graph for value in node.outputs if value.name and value.type is None}
    if not unknown:
        return
    proto = ir.to_proto(model)
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in unknown if name not in known)
    for name, kind in Runner(proto, optimise=False).types.items():
        found = re.fullmatch(r"(seq\()?tensor\((\w+)\)\)?", kind)
        if name in unknown and found and found[2] in _TYPES:
            tensor = ir.TensorType(_TYPES[found[2]])
            unknown[name].type = ir.SequenceType(tensor) if found[1] else tensor


def _array(value: Value) -> Any:
    return value.detach().cpu().contiguous().numpy() if isinstance(value, Tensor) else value


def _value(answer: Any) -> Value:
    return (
        torch.from_numpy(np.ascontiguousarray(answer)).reshape(answer.shape)
        if isinstance(answer, np.ndarray)
        else answer
    )


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the layer at `path`, or of a segment.

    inputs, outputs: names of values. gone: names of the values that are read here last. product: the node of a segment
    that is one node that multiplies.
    """

    inputs: Sequence[str]
    outputs: Sequence[str]
    path: str = ""
    segment: Runner | None = None
    gone: Sequence[str] = ()
    product: ir.Node | None = None


def calls_of(model: ir.Model) -> list[Call]:
    """The layers of `model`, of which the nodes are Layer nodes, and the segments between them, in the order of a run.

    A segment holds the nodes in front of which the same number of layers lies, on the longest way to them. A node that
    multiplies is a segment of its own, so that its work can be counted.
    """
    graph = model.graph
    depth: dict[str, int] = {value.name or "": 0 for value in [*graph.inputs, *graph.initializers.values()]}
    readers: dict[str, set[int]] = {}
    stages: dict[int, tuple[list[ir.Node], list[ir.Node]]] = {}
    for node in graph:
        mine = max((depth[name] for name in reads(node) if name in depth), default=0)
        alone = _is_layer(node) or (node.op_type in LEFT and not node.domain)
        stages.setdefault(mine, ([], []))[alone].append(node)
        for name in reads(node):
            readers.setdefault(name, set()).add(-1 if alone else mine)
        for value in node.outputs:
            depth[value.name or ""] = mine + alone
    calls: list[Call] = []
    ends = {value.name or "" for value in graph.outputs}
    for stage in sorted(stages):
        plain, single = stages[stage]
        if plain:
            made = [value.name or "" for node in plain for value in node.outputs]
            outside = {name for name in made if name in ends or readers.get(name, set()) - {stage}}
            calls.append(_segment(model, plain, outside))
        for node in single:
            names = [value.name or "" for value in node.outputs if value.name]
            if _is_layer(node):
                read = [value.name or "" for value in node.inputs if value is not None]
                calls.append(Call(read, names, path=node.attributes[PATH].as_string()))
            else:
                calls.append(replace(_segment(model, [node], names), product=node))
    return _with_last_uses(calls, ends)


def _is_layer(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type == LAYER_NODE


def reads(node: ir.Node) -> Iterator[str]:
    """Names of the values that a node reads, also in graphs inside it."""
    graphs = [
        attribute.as_graph()
        for attribute in node.attributes.values()
        if isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.GRAPH
    ]
    inner = (each for graph in graphs for each in ir.traversal.RecursiveGraphIterator(graph))
    read = [value for each in (node, *inner) for value in each.inputs]
    read += [value for graph in graphs for value in graph.outputs]
    for value in read:
        if value is not None and value.graph is node.graph:
            yield value.name or ""


def _segment(model: ir.Model, nodes: Sequence[ir.Node], outside: Collection[str]) -> Call:
    """The nodes as a graph of their own. outside: the values that something else reads."""
    graph = model.graph
    made = {value.name or "": value for node in nodes for value in node.outputs}
    read = [name for name in dict.fromkeys(name for node in nodes for name in reads(node)) if name and name not in made]
    values = _values(model)
    initializers = [name for name in read if name in graph.initializers]
    inputs = [name for name in read if name not in graph.initializers and name in values]
    outputs = [name for name in made if name in outside]
    proto = onnx.ModelProto(ir_version=model.ir_version)
    for domain, version in graph.opset_imports.items():
        if domain != DOMAIN:
            proto.opset_import.add(domain=domain, version=version)
    proto.graph.name = "segment"
    proto.graph.node.extend(ir.serde.serialize_node(node) for node in nodes)
    for name in initializers:
        tensor = graph.initializers[name].const_value
        assert tensor is not None
        proto.graph.initializer.append(ir.serde.serialize_tensor(tensor))
        proto.graph.initializer[-1].name = name
    for name in inputs:
        proto.graph.input.append(_typed(values[name]))
    for name in outputs:
        proto.graph.output.append(onnx.ValueInfoProto(name=name))  # ONNX Runtime finds its type
    return Call(inputs, outputs, segment=Runner(proto, optimise=False))


def _values(model: ir.Model) -> dict[str, ir.Value]:
    found = {value.name or "": value for value in model.graph.inputs}
    return found | {value.name or "": value for node in model.graph for value in node.outputs}


def _typed(value: ir.Value) -> onnx.ValueInfoProto:
    """The input with its type, without its shape, which a wrong inference would make wrong."""
    if value.type is None:
        raise ExportError(f"the type of value {excerpt(value.name or '')!r} is not known; export the model again")
    proto = onnx.ValueInfoProto(name=value.name)
    proto.type.CopyFrom(ir.serde.serialize_type(value.type))
    if proto.type.HasField("tensor_type"):
        proto.type.tensor_type.ClearField("shape")
    return proto


def _with_last_uses(calls: Sequence[Call], kept: Collection[str]) -> list[Call]:
    seen = set(kept)
    found = []
    for call in reversed(calls):
        gone = [name for name in dict.fromkeys([*call.inputs, *call.outputs]) if name not in seen]
        seen |= {*gone}
        found.append(replace(call, gone=gone))
    return found[::-1]
