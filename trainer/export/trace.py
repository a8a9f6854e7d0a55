"""TracedGraph: a nested torch model as an ONNX graph that has the names of its nested layers and not their weights."""

from __future__ import annotations

import io
import itertools
import logging
import re
import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18
from torch import Tensor, nn

from nested_sparse.argument import shown
from nested_sparse.errors import ExportError
from nested_sparse.excerpt import excerpt
from nested_sparse.graph.contract import is_runtime_input
from nested_sparse.tensor_spec import TensorSpec

from ..model.forward_call import ForwardCall
from ..model.modes import module_stack, named
from ..model.norm import epsilons
from ..model.structure import Path
from ..model.structure import output_names as default_output_names
from . import attention
from .asked_sizes import AskedSizes
from .embedding_bags import bags_reduced
from .exporter_tables import kept_tables
from .free_sizes import BATCH, FreeSizes, found_sizes, torch_dims, traceable
from .functional_uses import recognise
from .placeholder import LevelValues, placeholders
from .recurrent import WholeRecurrent, translations
from .simplify import simplify

MODEL = "model"  # name of the child of ForwardCall.flat


@dataclass(frozen=True, slots=True)
class TracedGraph:
    """The graph, with placeholders for nested layers and level norms, and the model's own inputs and outputs.

    values: other tensors that differ from level to level, (L, ...) by the name in their LevelValue node.
    parameters: dotted names of the model's parameters that the graph holds.
    sizes: the free sizes; None where at most the batch is free.
    """

    model: ir.Model
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    values: LevelValues
    parameters: frozenset[str]
    sizes: FreeSizes | None = None

    def from_two(self, names: Collection[str]) -> TracedGraph:
        """The same with free sizes `names` that are 2 or more."""

        def changed(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
            return tuple(
                replace(
                    spec,
                    free=tuple(each and (replace(each, least=2) if each.name in names else each) for each in spec.free),
                )
                for spec in specs
            )

        return replace(self, inputs=changed(self.inputs), outputs=changed(self.outputs)) if names else self


class OwnGraph(nn.Module):
    """A model that is a graph already, so that torch does not trace it."""

    @abstractmethod
    def traced(self, examples: Sequence[Tensor], answer: Sequence[Tensor]) -> TracedGraph:
        """The graph, with the sizes of `examples` and of the model's `answer` to them. Raises ExportError."""


def trace(
    model: nn.Module,
    call: ForwardCall,
    answer: Sequence[tuple[Path, Tensor]],
    *,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    fixed_batch: bool,
    asked: Sequence[AskedSizes] | None = None,
    writes_inputs: bool = False,
) -> TracedGraph:
    """Trace `model` (in eval mode); dimension 0 of every input is free unless `fixed_batch`.

    asked: free dimensions of each input, in place of those. answer: the model's answer to `call`. writes_inputs:
    whether forward changes its inputs in place. Raises ExportError, which names the module that failed.
    """
    inputs_named = _names("input", input_names, call.names)
    defaults = default_output_names([path for path, _ in answer], inputs_named)
    outputs_named = _names("output", output_names, defaults)
    check_distinct([*inputs_named, *outputs_named])
    added = epsilons(model)
    with placeholders(model) as values, torch.no_grad(), quiet_exporter():
        flat = call.flat(model, copied=writes_inputs)
        with bags_reduced(model), WholeRecurrent():  # which sees each call of torch, so no longer than is needed
            if asked is None:
                program, sizes = _to_program(flat, call.tensors, fixed_batch), None
            else:
                program = _sized_program(flat, traceable(call.tensors, asked), torch_dims(asked), inputs_named)
                sizes = found_sizes(program, asked, call.tensors, inputs_named)
        recognise(program, values, added)
        parameters = _used_parameters(program)
        graph = _to_onnx(flat, program)
    _name_values(graph, [*inputs_named, *outputs_named])
    inputs = tuple(_spec(value, example) for value, example in zip(graph.graph.inputs, call.tensors, strict=True))
    outputs = tuple(_spec(value, each) for value, (_, each) in zip(graph.graph.outputs, answer, strict=True))
    _name_sizes(graph, {str(_first_dimension(graph)): BATCH} if sizes is None else sizes.names)
    if sizes is not None:
        inputs = tuple(replace(spec, free=free) for spec, free in zip(inputs, sizes.of_inputs, strict=True))
        ends = zip(outputs, graph.graph.outputs, strict=True)
        outputs = tuple(
            replace(spec, free=sizes.of_output(() if value.shape is None else value.shape.dims)) for spec, value in ends
        )
    return TracedGraph(graph, inputs, outputs, values, parameters, sizes)


def _name_sizes(model: ir.Model, names: Mapping[str, str]) -> None:
    """Name the dimensions that are one free size alone; torch.export gives each a symbol. names: by symbol."""
    for value in values_of(model):
        if value.shape is not None and any(str(size) in names for size in value.shape.dims):
            value.shape = ir.Shape([names.get(str(size), size) for size in value.shape.dims])


def _first_dimension(model: ir.Model) -> object:
    shape = model.graph.inputs[0].shape
    return shape[0] if shape and isinstance(shape[0], ir.SymbolicDim) else None


def values_of(model: ir.Model) -> Iterator[ir.Value]:
    """Every value of the graph and of those inside it, but for the inputs of the latter."""
    yield from model.graph.inputs
    yield from model.graph.initializers.values()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        yield from node.outputs


def _names(kind: str, given: Sequence[str] | None, defaults: list[str]) -> list[str]:
    if given is None:
        return defaults
    listed = isinstance(given, list | tuple) and all(isinstance(name, str) for name in given)
    if not listed or len(given) != len(defaults):
        raise ExportError(
            f"{kind}_names: expected {len(defaults)} names, got {shown(given)}; the model has {len(defaults)} {kind}s"
        )
    return list(given)


def check_distinct(names: list[str]) -> None:
    """Raise ExportError for a name that two inputs or outputs have, or that is the runtime's own."""
    counts = Counter(names)
    for name in names:
        if not name or is_runtime_input(name):
            raise ExportError(
                f"{name!r} cannot name an input or output: it is empty, or the runtime's own; choose another name"
            )
        if counts[name] > 1:
            raise ExportError(f"{name!r} names two inputs or outputs; pass distinct input_names and output_names")


def _to_program(model: nn.Module, examples: tuple[Tensor, ...], fixed_batch: bool) -> torch.export.ExportedProgram:
    if fixed_batch:
        return _export_program(model, examples, None)
    batches = {int(example.shape[0]) if example.dim() else None for example in examples}
    if len(batches) != 1 or None in batches:
        shapes = [list(example.shape) for example in examples]
        raise ExportError(
            f"dimension 0 of every input must be the batch, got shapes {shapes}; where it is another dimension, as in "
            'the states of an LSTM, say so: dynamic_shapes=({0: "batch"}, {1: "batch"}); or pass fixed_batch=True'
        )
    # torch.export treats a size of 1 as a constant, so a single example is doubled before it is traced
    traced = tuple(torch.cat([example, example]) if batches == {1} else example for example in examples)
    try:
        return _export_program(model, traced, tuple({0: torch.export.Dim(BATCH)} for _ in examples))
    except ExportError as error:
        try:
            _export_program(model, examples, None)
        except ExportError:
            raise error from None
        raise ExportError(
            f"the model only works with the batch size of the example ({error}); export it with fixed_batch=True, "
            "or make forward take the batch size from its input"
        ) from None


def _sized_program(
    model: nn.Module,
    examples: Sequence[tuple[Tensor, ...]],
    dynamic: tuple[dict[int, Any], ...],
    inputs: Sequence[str],
) -> torch.export.ExportedProgram:
    """The program by the first examples that can be traced."""
    for each in examples[:-1]:
        with suppress(ExportError):
            return _export_program(model, each, dynamic, inputs)
    return _export_program(model, examples[-1], dynamic, inputs)


def _export_program(
    model: nn.Module,
    examples: tuple[Tensor, ...],
    dynamic: tuple[dict[int, Any], ...] | None,
    inputs: Sequence[str] = (),
) -> torch.export.ExportedProgram:
    with module_stack(model) as active:
        try:
            shapes = None if dynamic is None else (dynamic,)  # one tuple for *tensors
            with redirect_stderr(io.StringIO()):  # an export that fails prints its whole unfinished graph
                return torch.export.export(model, examples, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # torch.export raises errors of any class, also the model's own
            where = _describe(model, active[-1] if active else "")
            raise ExportError(f"{where} cannot be traced: {reason(error, inputs)}") from error


def _used_parameters(program: torch.export.ExportedProgram) -> frozenset[str]:
    names = program.graph_signature.inputs_to_parameters
    return frozenset(
        names[node.name].removeprefix(f"{MODEL}.") for node in program.graph.nodes if node.name in names and node.users
    )


def _to_onnx(model: nn.Module, program: torch.export.ExportedProgram) -> ir.Model:
    try:
        with _arithmetic(), kept_tables():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                optimize=False,
                custom_translation_table=attention.TRANSLATIONS | translations(),
            )
    except Exception as error:  # mostly OnnxExporterError, but also any error of a translation
        operator = _failing_operator(error)
        where = _describe(model, _path_of(program, operator))
        hint = "replace the operation, or register a translation for it in torch.onnx"
        raise ExportError(
            f"{where}: torch.onnx cannot translate {operator or 'it'} ({reason(error)}); {hint}"
        ) from error
    assert exported is not None
    graph: ir.Model = exported.model
    simplify(graph)
    return graph


@contextmanager
def _arithmetic() -> Iterator[None]:
    """Context in which torch's translations can write `value + 1` for outputs of our nodes, as for those of theirs."""
    handle = getattr(ir, "set_value_magic_handler", lambda _: None)  # older versions have no such arithmetic
    before = handle(opset18)
    try:
        yield
    finally:
        handle(before)


def reason(error: BaseException, inputs: Sequence[str] = ()) -> str:
    """The innermost cause in one line. inputs: names of the inputs where dimensions other than the batch are free."""
    while not isinstance(error, ExportError) and error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    specialized = next((line for line in lines if "specialized" in line), "")
    if specialized:
        place = re.search(r"\['tensors'\]\[(\d+)\]\.size\(\)\[(\d+)\]", specialized)
        if place and inputs:
            return f"it treats dimension {place[2]} of input {inputs[int(place[1])]!r} as a constant"
        return "it treats the batch size as a constant"
    if "data-dependent" in text:
        return f"its control flow depends on the data, which a graph cannot hold ({text.split(' (')[0]})"
    return excerpt(text, 300)


def _failing_operator(error: BaseException | None) -> str:
    while error is not None:
        found = re.search(
            r"No ONNX function found for <OpOverload\(op='([\w.]+)'|target=torch\.ops\.([\w.]+)", str(error)
        )
        if found:
            return found[1] or found[2]
        error = error.__cause__
    return ""


def _path_of(program: torch.export.ExportedProgram, operator: str) -> str:
    """Dotted path of the module that calls `operator`; "" where it was lost when operators were decomposed."""
    wanted = operator.split(".")[1].lstrip("_") if "." in operator else ""
    for node in program.graph.nodes:
        called = str(node.target).split(".")
        if wanted and len(called) > 1 and called[1].lstrip("_") == wanted:
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            return str(stack[-1][0]) if stack else ""
    return ""


def _describe(flat: nn.Module, path: str) -> str:
    """The module with this path in `flat`, in words and as a module of the user's model, the only child of `flat`."""
    return named(flat.get_submodule(MODEL), path.removeprefix(MODEL).removeprefix("."))


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Context without the exporter's logs about unused packages and bytes that are no text, nor its own warnings."""
    names = ("torch.onnx", "torch.fx.experimental.symbolic_shapes", "torch._export", "onnx_ir", "onnxscript")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _name_values(model: ir.Model, names: list[str]) -> None:
    """Give inputs and outputs their names. An inner value that already has such a name gets another one."""
    graph = model.graph
    public = {id(value): value for value in [*graph.inputs, *graph.outputs]}
    for value in list(graph.initializers.values()):  # as the user's model calls them
        value.name = (value.name or "").removeprefix(f"{MODEL}.")
    inner = [output for node in ir.traversal.RecursiveGraphIterator(graph) for output in node.outputs]
    values = [value for value in [*graph.initializers.values(), *inner] if id(value) not in public]
    used = {value.name for value in [*public.values(), *values]} | set(names)
    taken = set(names)
    for value in values:
        if value.name is None or value.name in taken:
            value.name = next(name for number in itertools.count(1) if (name := f"{value.name}.{number}") not in used)
        used.add(value.name)
        taken.add(value.name)
    for value, name in zip([*graph.inputs, *graph.outputs], names, strict=True):
        value.name = name


def _spec(value: ir.Value, example: Tensor) -> TensorSpec:
    dims = value.shape.dims if value.shape is not None else (None,) * example.dim()
    shape = tuple(dim if isinstance(dim, int) else None for dim in dims)
    return TensorSpec(value.name or "", str(example.dtype).removeprefix("torch."), shape, tuple(example.shape))
