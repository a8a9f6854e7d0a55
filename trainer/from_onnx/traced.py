"""traced: the graph of an OnnxNetwork as a TracedGraph, with which the export goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import onnx_ir as ir
from torch import Tensor, nn

from nested_sparse.errors import ExportError
from nested_sparse.free_size import FreeSize
from nested_sparse.graph.contract import (
    DOMAIN,
    DOMAIN_VERSION,
    LAYER,
    LAYER_KINDS,
    is_runtime_input,
)
from nested_sparse.tensor_spec import TensorSpec

from ..export.free_sizes import BATCH, FreeSizes
from ..export.trace import TracedGraph, values_of
from ..model.layers import NestedLayer
from .found import Make
from .plan import Plan


def traced_plan(plan: Plan, network: nn.Module, examples: Sequence[Tensor], answer: Sequence[Tensor]) -> TracedGraph:
    """The graph of `plan` with the operators of nested layers in place of their nodes; other weights are constants.

    examples, answer: the inputs and outputs of a run, whose sizes become those of the specs. Raises ExportError.
    """
    model = plan.graph.clone()
    nested = {path: module for path, module in network.named_modules() if isinstance(module, NestedLayer)}
    plan.place(model, {*nested}, lambda node: _operator(node, nested))
    placed = {node.attributes[LAYER].as_string() for node in model.graph if node.domain == DOMAIN}
    for path in sorted({*nested} - placed):
        raise ExportError(f"{path}: the other layers of its node are not nested; keep all of them dense, or none")
    parameters = _keep_constants(plan, network, model)
    for value in values_of(model):
        if is_runtime_input(value.name or ""):
            value.name = f"{value.name}.inner"
    model.graph.opset_imports[DOMAIN] = DOMAIN_VERSION
    model.graph.sort()
    inputs = [
        _spec(value, tuple(each.shape), str(each.dtype))
        for value, each in zip(model.graph.inputs, examples, strict=True)
    ]
    outputs = [
        _spec(value, tuple(each.shape), str(each.dtype))
        for value, each in zip(model.graph.outputs, answer, strict=True)
    ]
    sizes = _sizes(plan.inputs, plan.batch)
    if sizes is None:
        for value in values_of(model):
            if value.shape is not None and plan.batch in [str(size) for size in value.shape.dims]:
                value.shape = ir.Shape([BATCH if str(size) == plan.batch else size for size in value.shape.dims])
        return TracedGraph(model, tuple(inputs), tuple(outputs), {}, parameters)
    inputs = [replace(spec, free=free) for spec, free in zip(inputs, sizes.of_inputs, strict=True)]
    ends = zip(outputs, model.graph.outputs, strict=True)
    outputs = [
        replace(spec, free=sizes.of_output(() if value.shape is None else value.shape.dims)) for spec, value in ends
    ]
    return TracedGraph(model, tuple(inputs), tuple(outputs), {}, parameters, sizes)


def _operator(node: ir.Node, nested: dict[str, NestedLayer]) -> Make:
    """Makes the operators of nested layers in front of `node`."""

    def made(path: str, inputs: Sequence[ir.Value], outputs: int) -> Sequence[ir.Value]:
        layer = nested[path]
        kind = LAYER_KINDS[layer.op]
        attributes: dict[str, Any] = {LAYER: layer.name, **kind.in_node(layer.attributes()), **layer.of_node()}
        operator = ir.node(
            kind.operator,
            inputs,
            attributes,
            domain=DOMAIN,
            version=DOMAIN_VERSION,
            num_outputs=outputs,
            name=layer.name,
        )
        for place, value in enumerate(operator.outputs):
            value.name, value.type = f"{layer.name}.answer{place}", ir.TensorType(ir.DataType.FLOAT)
        assert node.graph is not None
        node.graph.insert_before(node, operator)
        return operator.outputs

    return made


def _keep_constants(plan: Plan, network: nn.Module, model: ir.Model) -> frozenset[str]:
    """Make constants of the inputs that hold weights of layers that are not nested; names of their parameters."""
    kept: set[str] = set()
    fed = {value.name or "": value for value in model.graph.inputs if value.name in plan.feeds}
    read: list[str] = []

    def get(path: str) -> nn.Module:
        read.append(path)
        return network.get_submodule(path)

    for name, value in fed.items():
        model.graph.inputs.remove(value)
        if not value.uses():
            continue
        read.clear()
        tensor = plan.feeds[name](get).detach().cpu().contiguous()
        value.const_value = ir.tensor(tensor.numpy(), name=name)
        model.graph.register_initializer(value)
        kept |= {f"{path}.weight" for path in read}
    return frozenset(kept)


def input_specs(plan: Plan) -> list[TensorSpec]:
    """The inputs, with the least sizes as those of the examples."""
    values = plan.inputs
    shapes = [[] if value.shape is None else [*value.shape.dims] for value in values]
    specs = [
        _spec(value, tuple(size if isinstance(size, int) else 1 for size in shape), value.dtype.numpy().name)
        for value, shape in zip(values, shapes, strict=True)
        if value.dtype is not None
    ]
    sizes = _sizes(values, plan.batch)
    if sizes is None:
        return specs
    return [replace(spec, free=free) for spec, free in zip(specs, sizes.of_inputs, strict=True)]


def _spec(value: ir.Value, example: tuple[int, ...], dtype: str) -> TensorSpec:
    dims = (None,) * len(example) if value.shape is None else value.shape.dims
    if len(dims) != len(example):
        raise ExportError(f"{value.name!r} is said to have the shape {list(dims)}, and has {list(example)}")
    shape = tuple(size if isinstance(size, int) else None for size in dims)
    return TensorSpec(value.name or "", dtype.removeprefix("torch."), shape, example)


def _sizes(inputs: Sequence[ir.Value], batch: str) -> FreeSizes | None:
    """The free sizes of the inputs; None where at most the batch is free."""
    dims = [[] if value.shape is None else [*value.shape.dims] for value in inputs]
    names = {str(size) for shape in dims for size in shape if not isinstance(size, int)}
    if names <= {batch}:
        return None
    of_inputs = tuple(
        tuple(None if isinstance(size, int) else FreeSize(str(size), batch=str(size) == batch) for size in shape)
        for shape in dims
    )
    return FreeSizes(of_inputs, {name: name for name in names}, frozenset(names - {batch}))
