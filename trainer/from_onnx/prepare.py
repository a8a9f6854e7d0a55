"""Prepare: an ONNX graph as a checkpoint can hold it: known operators, named sizes, no quantisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import version_converter

from nested_sparse.errors import ExportError
from nested_sparse.excerpt import excerpt
from nested_sparse.graph.check import ONNX_OPSETS
from nested_sparse.graph.operators import ONNX_DOMAINS, OPERATORS

from ..entry import described
from ..export.free_sizes import BATCH
from ..export.simplify import simplify
from ..export.trace import check_distinct, quiet_exporter
from .dequantise import clamp_activations, dequantise
from .learned import without_learned
from .segments import find_types

OPSET = 18
"""Older graphs are converted to this version of ONNX's operators, the one that torch.onnx writes, too."""


def prepare(model: ir.Model, where: str, sizes: Mapping[str, int]) -> tuple[onnx.ModelProto | None, str]:
    """Rewrite `model`, in place; it computes the same, but without the rounding between QuantizeLinear and its inverse.

    where: name of the file, for messages. sizes: free sizes of the inputs, by name, that become fixed. Returns
    the graph without its roundings, but with its weights as they are in the file, None where no roundings were taken
    out; and the name of the free size that is the batch, "" without one.
    Raises ExportError.
    """
    common.RemoveInitializersFromInputsPass()(model)
    common.RemoveUnusedNodesPass()(model)
    _check_inputs(model, where)
    names = [value.name or "" for value in model.graph.inputs]
    outputs = [value.name or "" for value in model.graph.outputs]
    check_distinct([*names, *outputs])
    batch = _name_sizes(model, where, sizes)
    _convert(model, where)
    without_learned(model)
    declared = [value.shape for value in model.graph.outputs]
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            value.shape = None  # some are of other sizes than those that are free here
    unrounded = ir.to_proto(model) if clamp_activations(model) else None
    dequantise(model)
    try:
        with quiet_exporter():
            simplify(model)
    except Exception as error:  # of onnx, onnx_ir or onnxscript, for a graph that is wrong somewhere
        raise ExportError(f"{where}: its graph cannot be read ({described(error)}); export it again") from error
    _check_operators(model, where)
    find_types(model)
    for value, name, shape in zip(model.graph.outputs, outputs, declared, strict=True):
        value.name = name
        value.shape = value.shape or shape
    return unrounded, batch


def _check_inputs(model: ir.Model, where: str) -> None:
    if not model.graph.inputs:
        raise ExportError(f"{where}: has no inputs; expected at least one")
    for value in model.graph.inputs:
        if not isinstance(value.type, ir.TensorType) or value.dtype in (None, ir.DataType.STRING):
            raise ExportError(
                f"{where}: input {excerpt(value.name or '')!r} is {excerpt(str(value.type))}, expected a tensor of "
                "numbers; do the step that reads texts, lists or maps outside of the model"
            )
        if value.shape is None:
            raise ExportError(
                f"{where}: input {excerpt(value.name or '')!r} has no shape; export it with one, free sizes included"
            )


def _name_sizes(model: ir.Model, where: str, sizes: Mapping[str, int]) -> str:
    """Give every free size of the inputs a name, and fix those of `sizes`; the name of the batch, "" without one."""
    shapes: list[list[int | str]] = []
    first = [value.shape[0] if value.shape else None for value in model.graph.inputs]
    unnamed_batch = all(isinstance(size, ir.SymbolicDim) and not size.value for size in first)
    for value in model.graph.inputs:
        assert value.shape is not None
        named: list[int | str] = []
        for axis, size in enumerate(value.shape):
            if isinstance(size, int):
                named.append(size)
            else:
                default = BATCH if unnamed_batch and axis == 0 else f"{value.name}_{axis}"
                named.append(size.value or default)
        shapes.append(named)
    known = {size for shape in shapes for size in shape if isinstance(size, str)}
    unknown = [name for name in sizes if name not in known]
    if unknown:
        listed = ", ".join(sorted(known)) or "none"
        raise ExportError(f"{where}: has no free size {excerpt(unknown[0])!r}; its free sizes are: {listed}")
    whole = [[sizes.get(size, size) if isinstance(size, str) else size for size in shape] for shape in shapes]
    for value, shape in zip(model.graph.inputs, whole, strict=True):
        value.shape = ir.Shape(shape)
    return _batch_of(whole)


def _batch_of(shapes: Sequence[Sequence[int | str]]) -> str:
    """The name that dimension 0 of every input has, and no other dimension."""
    first = {shape[0] if shape else 0 for shape in shapes}
    name = first.pop()
    inner = {size for shape in shapes for size in shape[1:]}
    return name if isinstance(name, str) and not first and name not in inner else ""


def _convert(model: ir.Model, where: str) -> None:
    version = model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx"))
    newest = ONNX_OPSETS[1]
    if version is None or not 1 <= version <= newest:
        raise ExportError(
            f"{where}: has version {version} of ONNX's operators, expected 1 to {newest}; export it with a version "
            f"between {OPSET} and {newest} (opset_version)"
        )
    if version >= OPSET:
        return
    try:
        with quiet_exporter():
            version_converter.ConvertVersionPass(OPSET, fallback=True)(model)
    except Exception as error:  # of onnx or onnxscript
        raise ExportError(
            f"{where}: has version {version} of ONNX's operators and cannot be converted to {OPSET} "
            f"({described(error)}); export it with version {OPSET} or later (opset_version)"
        ) from error
    if model.graph.opset_imports.get("") != OPSET:
        raise ExportError(
            f"{where}: has version {version} of ONNX's operators and cannot be converted to {OPSET}; export it with "
            f"version {OPSET} or later (opset_version)"
        )


def _check_operators(model: ir.Model, where: str) -> None:
    """Raise ExportError for operators that a checkpoint may not hold."""
    wrong: dict[str, str] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain not in ONNX_DOMAINS or node.op_type not in OPERATORS:
            domain = node.domain or "ONNX's own"
            wrong.setdefault(f"{node.op_type} of domain {domain}", node.name or "?")
    if wrong:
        listed = ", ".join(f"{excerpt(kind)} (node {excerpt(name)!r})" for kind, name in [*wrong.items()][:5])
        raise ExportError(
            f"{where}: has operators that a checkpoint cannot hold: {listed}; expected operators of ONNX alone; save "
            "the model before ONNX Runtime's optimisation, which fuses nodes into operators of its own, or leave these "
            "steps outside of the model"
        )
