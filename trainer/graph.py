"""TracedGraph: a nested torch model as an ONNX graph that names its nested layers and holds none of their weights."""

from __future__ import annotations

import inspect
import io
import itertools
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18
from torch import Tensor, nn
from torch.utils import _pytree

from nested_sparse.errors import ExportError
from nested_sparse.tensor_spec import TensorSpec
from nested_sparse.trainer.functional_uses import recognise
from nested_sparse.trainer.norm import epsilons
from nested_sparse.trainer.placeholder import LevelValues, placeholders
from nested_sparse.trainer.recurrent import TRANSLATIONS, WholeRecurrent
from nested_sparse.trainer.simplify import simplify

LEVEL_INPUT = "__level__"
BATCH = "batch"


def segment_input(level: int) -> str:
    """Name of the graph input that takes the file's segment of `level`."""
    return f"__segment_{level}__"


@dataclass(frozen=True, slots=True)
class TracedGraph:
    """The graph, with placeholders for nested layers and level norms, and the model's own inputs and outputs.

    values: what else differs from level to level, (L, ...) by the name that its LevelValue node carries.
    parameters: dotted names of the model's parameters that the graph holds.
    """

    model: ir.Model
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    values: LevelValues
    parameters: frozenset[str]


def trace(
    model: nn.Module,
    examples: tuple[Tensor, ...],
    outputs: Sequence[Tensor],
    *,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    fixed_batch: bool,
) -> TracedGraph:
    """Trace `model` (in eval mode); dimension 0 of every input is free unless `fixed_batch`.

    outputs: what the model answered to `examples`, flattened. Raises ExportError, which names the module that failed.
    """
    inputs_named = _names("input", input_names, default_input_names(model, len(examples)))
    outputs_named = _names("output", output_names, default_output_names(len(outputs)))
    _check_distinct([*inputs_named, *outputs_named])
    with placeholders(model) as values, WholeRecurrent(), torch.no_grad(), quiet_exporter():
        program = _to_program(model, examples, fixed_batch)
        recognise(program, values, epsilons(model))
        parameters = _used_parameters(program)
        graph = _to_onnx(model, program)
    _name_values(graph, [*inputs_named, *outputs_named])
    return TracedGraph(
        graph,
        tuple(_spec(value, example) for value, example in zip(graph.graph.inputs, examples, strict=True)),
        tuple(_spec(value, example) for value, example in zip(graph.graph.outputs, outputs, strict=True)),
        values,
        parameters,
    )


def default_input_names(model: nn.Module, count: int) -> list[str]:
    """`input` for one, else the names of forward's parameters."""
    if count == 1:
        return ["input"]
    names: list[str] = []
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{index}" for index in range(count - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return names[:count]


def default_output_names(count: int) -> list[str]:
    """`output` for one, else output_0, output_1, …"""
    return ["output"] if count == 1 else [f"output_{index}" for index in range(count)]


def flatten_outputs(answer: Any) -> list[Tensor]:
    """The tensors of a forward's answer, in order. Raises ExportError where it holds something else."""
    leaves = _pytree.tree_leaves(answer)
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise ExportError(
                f"forward must return tensors (alone, or in tuples, lists, dicts), got {type(leaf).__name__}"
            )
    if not leaves:
        raise ExportError("forward returns no tensor")
    return leaves


def _names(kind: str, given: Sequence[str] | None, defaults: list[str]) -> list[str]:
    if given is None:
        return defaults
    if isinstance(given, str) or len(given) != len(defaults):
        raise ExportError(
            f"{kind}_names: expected {len(defaults)} names, got {given!r}; the model has {len(defaults)} {kind}s"
        )
    return list(given)


def _check_distinct(names: list[str]) -> None:
    for name in names:
        if not name or re.fullmatch(r"__(level|segment_\d+)__", name):
            raise ExportError(
                f"{name!r} cannot name an input or output: it is empty or one of the runtime's own; choose another"
            )
        if names.count(name) > 1:
            raise ExportError(f"{name!r} names two inputs or outputs; pass distinct input_names and output_names")


def _to_program(model: nn.Module, examples: tuple[Tensor, ...], fixed_batch: bool) -> torch.export.ExportedProgram:
    if fixed_batch:
        return _export_program(model, examples, None)
    batches = {int(example.shape[0]) if example.dim() else None for example in examples}
    if len(batches) != 1 or None in batches:
        shapes = [list(example.shape) for example in examples]
        raise ExportError(
            f"dimension 0 of every input must be the batch, got shapes {shapes}; or pass fixed_batch=True"
        )
    # torch.export takes a size of 1 for a constant, so a single example is traced as two
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


def _export_program(
    model: nn.Module, examples: tuple[Tensor, ...], dynamic: tuple[dict[int, Any], ...] | None
) -> torch.export.ExportedProgram:
    with _module_stack(model) as active:
        try:
            signature = inspect.signature(model.forward)
            shapes = None if dynamic is None else _by_parameter(signature, dynamic)
            with redirect_stderr(io.StringIO()):  # a failing export prints its whole unfinished graph
                return torch.export.export(model, examples, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # torch.export raises anything, from the model's own errors to its guards
            where = _describe(model, active[-1] if active else "")
            raise ExportError(f"{where} cannot be traced: {reason(error)}") from error


def _by_parameter(signature: inspect.Signature, dynamic: tuple[dict[int, Any], ...]) -> Any:
    """torch.export wants the free dimensions in the shape of forward's signature, *args being one tuple."""
    shapes: list[Any] = []
    rest = list(dynamic)
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            shapes.append(tuple(rest))
            rest = []
        elif rest:
            shapes.append(rest.pop(0))
    return tuple(shapes)


def _used_parameters(program: torch.export.ExportedProgram) -> frozenset[str]:
    names = program.graph_signature.inputs_to_parameters
    return frozenset(names[node.name] for node in program.graph.nodes if node.name in names and node.users)


def _to_onnx(model: nn.Module, program: torch.export.ExportedProgram) -> ir.Model:
    try:
        with _arithmetic():
            exported = torch.onnx.export(
                program, dynamo=True, verbose=False, optimize=False, custom_translation_table=TRANSLATIONS
            )
    except Exception as error:  # OnnxExporterError mostly, but also whatever a translation raises
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
    """Let torch's translations write `value + 1` of outputs of our nodes, as they do of those of their own."""
    handle = getattr(ir, "set_value_magic_handler", lambda _: None)  # older ones know no such arithmetic
    before = handle(opset18)
    try:
        yield
    finally:
        handle(before)


def reason(error: BaseException) -> str:
    """The innermost cause in one line."""
    while not isinstance(error, ExportError) and error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    specialized = next((line for line in lines if "specialized" in line), "")
    if specialized:
        return "it treats the batch size as a constant"
    if "data-dependent" in text:
        return f"its control flow depends on the data, which a graph cannot hold ({text.split(' (')[0]})"
    return text if len(text) <= 300 else text[:297] + "..."


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
    """Dotted path of the module that calls `operator`; "" where decomposition has left no trace of it."""
    wanted = operator.split(".")[1].lstrip("_") if "." in operator else ""
    for node in program.graph.nodes:
        called = str(node.target).split(".")
        if wanted and len(called) > 1 and called[1].lstrip("_") == wanted:
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            return str(stack[-1][0]) if stack else ""
    return ""


def _describe(model: nn.Module, path: str) -> str:
    try:
        return (
            f"module {path!r} ({type(model.get_submodule(path)).__name__})"
            if path
            else f"the model ({type(model).__name__})"
        )
    except AttributeError:
        return f"module {path!r}"


@contextmanager
def _module_stack(model: nn.Module) -> Iterator[list[str]]:
    """Dotted paths of the modules whose forward is running, outermost first; after an error, the last one raised it."""
    active: list[str] = []
    handles = []
    for path, module in model.named_modules():

        def enter(module: nn.Module, inputs: Any, path: str = path) -> None:
            active.append(path)

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            active.pop()

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield active
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """torch's exporter logs about packages this one does not use and warns about its own internals."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.fx.experimental.symbolic_shapes", "torch._export")
    ]
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
    """Give inputs and outputs their names; an inner value that has one of them already gets another."""
    graph = model.graph
    public = [*graph.inputs, *graph.outputs]
    inner = [output for node in ir.traversal.RecursiveGraphIterator(graph) for output in node.outputs]
    values = [value for value in [*graph.initializers.values(), *inner] if not any(value is other for other in public)]
    used = {value.name for value in [*public, *values]} | set(names)
    taken = set(names)
    for value in values:
        if value.name is None or value.name in taken:
            value.name = next(name for number in itertools.count(1) if (name := f"{value.name}.{number}") not in used)
        used.add(value.name)
        taken.add(value.name)
    for value, name in zip(public, names, strict=True):
        value.name = name


def _spec(value: ir.Value, example: Tensor) -> TensorSpec:
    dims = value.shape.dims if value.shape is not None else (None,) * example.dim()
    shape = tuple(dim if isinstance(dim, int) else None for dim in dims)
    return TensorSpec(value.name or "", str(example.dtype).removeprefix("torch."), shape, tuple(example.shape))
