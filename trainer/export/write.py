"""export: writes a nested torch model as one checkpoint file that the runtime answers alike."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nested_sparse.argument import file_path, real, shown
from nested_sparse.errors import CheckpointError, ExportError
from nested_sparse.network import Network
from nested_sparse.reroute import Reroute, check_reroutes
from nested_sparse.value_type import FLOAT32, ValueType, value_type
from nested_sparse.writer import LayerRecord, LevelRecord, refuse_existing, write_checkpoint

from ..entry import entry
from ..model.costs import Costs, counted_costs
from ..model.forward_call import ForwardCall, answered
from ..model.layers import NestedConv, NestedLinear
from ..model.nested_model import NestedModel, require_nested
from ..model.network import density, network_of, report
from ..model.preserved import Preserved, preserved, preserved_generators
from ..model.structure import Path as Place
from .diagnosis import refused_autocast
from .fuse import FusedGraph, fuse
from .placeholder import kind_attributes, window_attributes
from .row_mark import mark_export
from .trace import reason, trace
from .verify import disagreement, stored_weights, verify_export

log = logging.getLogger(__name__)


@entry(ExportError, inference=True)
def export(
    net: NestedModel,
    example_inputs: tuple[Any, ...],
    path: str | os.PathLike[str],
    *,
    metrics: Mapping[str, Sequence[float]] | None = None,
    reroutes: Sequence[Reroute] = (),
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    fixed_batch: bool = False,
    values: str = FLOAT32.name,
    force: bool = False,
    verify: bool = True,
    tolerance: float = 1e-4,
) -> Path:
    """Write `net` with all its levels to `path`, and return it.

    example_inputs: what forward takes: tensors with the batch as dimension 0, which stays free unless `fixed_batch`;
        None for an optional one that is left out, numbers, and tuples, lists and dicts of tensors. A dict at the end
        whose keys are forward's parameters holds keyword arguments, as in torch.onnx.export; put {} behind one that
        does not.
    metrics: name -> one finite value per level, sparsest first, e.g. {"accuracy": [0.91, 0.93]}.
    reroutes: what `measure_reroutes` found, so that a runtime knows what a lowered inference is expected to score.
    input_names, output_names: `input` and `output` for one; else forward's parameter names, and output_0, …; of dicts,
        named tuples and dataclasses the keys, with the way into them behind: past_key_values_0_1. None is left out.
    values: how weights are stored. "float16" takes half the bytes, each weight rounded to the nearest half (ties to
        even; off by at most 2^-11 of its magnitude, or 2^-25 below 2^-14), for all levels alike; arithmetic stays
        float32. Refused where a kept weight's magnitude is above 65504.
    force: replace an existing file.
    verify: run the file at every level and compare with torch (with the weights that the file holds, where they are
        rounded), before it gets its name; needs the built kernels. Finds out, too, whether rows are independent: only
        then a server runs the requests of several clients as one batch (runtime.check_rows).
    tolerance: largest difference accepted, as a part of the largest magnitude of the output.

    `net`, its buffers, the examples, random generators and torch's settings are left as they were, level and train mode
    included. On any error nothing is left at `path` that was not there.
    Raises ExportError (the message names the module at fault), CheckpointError (`path` exists or cannot be written),
    LevelError and InputError (`reroutes` are another model's).
    """
    path = file_path("path", path)
    refuse_existing(path, force)
    require_nested(net, ExportError)
    stored = value_type(values, ExportError)
    tolerance = real("tolerance", tolerance, 0, error=ExportError)
    metrics = _checked_metrics({} if metrics is None else metrics, net.level_count)
    check_reroutes(reroutes, net.level_count, net.nested_layers())
    _check_weights(net)
    with inference_mode_of(net), preserved_generators(), preserved(net.model) as state:
        call = ForwardCall(net.model, example_inputs)
        tables = _norm_tables(net)
        answer, costs, writes_inputs = _run_example(net, call, state, tolerance)
        traced = trace(
            net.model,
            call,
            answer,
            writes_inputs=writes_inputs,
            input_names=input_names,
            output_names=output_names,
            fixed_batch=fixed_batch,
        )
        state.restore()
        fused = fuse(traced.model, tables, net.level_count, traced.values)
        layers = _layer_records(net, fused, tables, stored)
        _report_uncalled(net, layers, traced.parameters)
        samples = int(call.tensors[0].shape[0]) if call.tensors[0].dim() else 1
        network = network_of(net, costs, samples, fused.norm_of, traced.parameters)
        report(log, network)
        with _folder_beside(path) as folder:
            unproven = folder / path.name
            write_checkpoint(
                unproven,
                graph_builder=fused.to_bytes,
                layers=layers,
                levels=_level_records(net, layers, costs, network, samples, metrics),
                inputs=traced.inputs,
                outputs=traced.outputs,
                reroutes=reroutes,
                network=network,
            )
            if verify:
                with stored_weights(net, stored):
                    verify_export(net, tuple(example_inputs), unproven, fixed_batch=fixed_batch, tolerance=tolerance)
                mark_export(unproven, traced.inputs, traced.outputs, call.tensors)
            refuse_existing(path, force)
            try:
                os.replace(unproven, path)
            except OSError as error:
                raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path


@contextmanager
def inference_mode_of(net: NestedModel) -> Iterator[None]:
    """Eval mode within; after it, every module's train mode and the level are what they were."""
    training = [(module, module.training) for module in net.modules()]
    level = net.level
    try:
        net.eval()
        yield
    finally:
        for module, was_training in training:
            module.training = was_training
        net.set_level(level)


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A temporary folder on the file system of `path`, so that a rename moves what is in it. Raises CheckpointError."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from None
    with folder as name:
        yield Path(name)


def _check_weights(net: NestedModel) -> None:
    for name, layer in net.nested_layers().items():
        if layer.values.dtype != torch.float32:
            raise ExportError(
                f"layer {name!r} has {layer.values.dtype} weights, and nested layers compute in float32; call .float() "
                "on the model first"
            )


def _checked_metrics(metrics: Mapping[str, Sequence[float]], level_count: int) -> dict[str, list[float]]:
    checked = {}
    if not isinstance(metrics, Mapping):
        raise ExportError(
            f'metrics: expected names with a value per level, e.g. {{"accuracy": [0.91, 0.93]}}, got {shown(metrics)}'
        )
    for name, values in metrics.items():
        if not isinstance(name, str):
            raise ExportError(f"metrics: expected names that are texts, got {shown(name)}")
        try:
            checked[name] = [float(value) for value in values]
        except (TypeError, ValueError):
            raise ExportError(f"metrics[{name!r}]: expected {level_count} numbers, got {values!r}") from None
        if len(checked[name]) != level_count or not all(math.isfinite(value) for value in checked[name]):
            raise ExportError(
                f"metrics[{name!r}]: expected one finite value for each of {level_count} levels, got {values!r}"
            )
    return checked


def _norm_tables(net: NestedModel) -> dict[str, NDArray[np.float64]]:
    """(L, 2, C) scale and shift of every level norm at inference, by dotted path."""
    return {
        path: np.stack([_scale_and_shift(path, level, norm) for level, norm in enumerate(module.norms)])
        for path, module in net.level_norms().items()
    }


def _scale_and_shift(path: str, level: int, norm: nn.Module) -> NDArray[np.float64]:
    mean, var = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    if mean is None or var is None:
        raise ExportError(
            f"module {path!r} (LevelBatchNorm): level {level} keeps no running statistics, so it depends on the batch; "
            "make it with track_running_stats=True and calibrate it"
        )
    deviation = np.sqrt(_float64(var) + float(norm.eps))  # type: ignore[arg-type]
    gamma, beta = getattr(norm, "weight", None), getattr(norm, "bias", None)
    scale = (1.0 if gamma is None else _float64(gamma)) / deviation
    shift = (0.0 if beta is None else _float64(beta)) - _float64(mean) * scale
    return np.stack([scale, shift])


def _float64(tensor: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = tensor.detach().cpu().double().numpy()
    return array


def _run_example(
    net: NestedModel, call: ForwardCall, state: Preserved, tolerance: float
) -> tuple[list[tuple[Place, Tensor]], Costs, bool]:
    """The densest level's answer, what the pass multiplied, and whether it changed its inputs.

    The model is put back to `state`. Raises ExportError: also where the answer depends on what earlier calls left.
    """
    net.set_level(-1)
    given = [tensor.clone() for tensor in call.tensors]
    try:
        with counted_costs(net) as costs, refused_autocast(net.model):
            answer = [(place, tensor.detach().clone()) for place, tensor in answered(call.run(net.model, given))]
        changed = state.changed()
        if changed and not _alike(answer, call.answer(net.model, call.tensors), tolerance):
            state.restore()
            if _alike(answer, call.answer(net.model, call.tensors), tolerance):
                raise ExportError(
                    f"forward keeps state between calls: it changes {', '.join(map(repr, changed))} and answers "
                    "otherwise the next time, and a file keeps nothing; take the state as an input, and answer with it"
                )
    except ExportError:
        raise
    except Exception as error:  # whatever the model raises
        raise ExportError(f"the model fails on the example inputs {call.shapes}: {reason(error)}") from error
    finally:
        state.restore()
    writes_inputs = not all(torch.equal(one, other) for one, other in zip(given, call.tensors, strict=True))
    return answer, costs, writes_inputs


def _alike(first: Sequence[tuple[Place, Tensor]], second: Sequence[tuple[Place, Tensor]], tolerance: float) -> bool:
    pairs = zip(first, second, strict=True)
    return not any(disagreement(one.cpu().numpy(), other.cpu().numpy(), tolerance) for (_, one), (_, other) in pairs)


def _layer_records(
    net: NestedModel, fused: FusedGraph, tables: Mapping[str, NDArray[np.float64]], stored: ValueType
) -> list[LayerRecord]:
    """One record for each nested layer in the graph, in graph order, so that a level is read front to back."""
    layers = net.nested_layers()
    if not fused.norm_of:
        raise ExportError(
            "forward calls no nested layer; make the model with nest() and export what it returns, and where forward "
            "reads the weights of all its layers past them, call some"
        )
    return [
        LayerRecord(
            weight=net.nested_weight(name),
            norms=_folded_norms(layers[name], None if norm is None else tables[norm], net.level_count),
            op="conv" if isinstance(layers[name], NestedConv) else "linear",
            attributes=_attributes(layers[name]),
            pattern=layers[name].layout.name,
            value_type=stored,
        )
        for name, norm in fused.norm_of.items()
    ]


def _report_uncalled(net: NestedModel, layers: Sequence[LayerRecord], parameters: Collection[str]) -> None:
    """Say which nested layers the file does without: forward neither calls them nor reads their weights."""
    nested, held = net.nested_layers(), {record.weight.name for record in layers}
    read = {id(net.model.get_parameter(name)) for name in parameters}
    gone = [name for name, layer in nested.items() if name not in held and id(layer.values) not in read]
    if gone:
        log.warning("forward does not call %s in eval mode; the file does without", ", ".join(gone))


def _attributes(layer: NestedConv | NestedLinear) -> dict[str, list[int]]:
    if not isinstance(layer, NestedConv):
        return {}
    return window_attributes(layer) | {name: [value] for name, value in kind_attributes(layer).items()}


def _folded_norms(
    layer: NestedConv | NestedLinear, table: NDArray[np.float64] | None, level_count: int
) -> NDArray[np.float32]:
    """(L, 2, O) scale and shift after the layer's sums: its norm, with its own bias under it."""
    rows = int(layer.values.shape[0])
    if table is None:
        table = np.stack([np.ones((level_count, rows)), np.zeros((level_count, rows))], axis=1)
    bias = np.zeros((level_count, rows)) if layer.biases is None else _float64(layer.biases)
    return np.stack([table[:, 0], table[:, 1] + bias * table[:, 0]], axis=1).astype(np.float32)


def _level_records(
    net: NestedModel,
    layers: Sequence[LayerRecord],
    costs: Costs,
    network: Network,
    samples: int,
    metrics: Mapping[str, Sequence[float]],
) -> list[LevelRecord]:
    """Density and FLOPs of the whole network: what a level keeps of the layers in the graph, and all else as it is."""
    names = [record.weight.name for record in layers]
    positions = costs.positions(net.nested_layers())
    outside = costs.total - sum(costs.layers[name] for name in names)

    def flops(level: int) -> int:
        kept = sum(record.weight.nnz(level) * positions.get(record.weight.name, 0) for record in layers)
        return (outside + 2 * kept) // samples

    return [
        LevelRecord(
            density=density(net, level, names, network.weights),
            flops=flops(level),
            metrics={name: values[level] for name, values in metrics.items()},
        )
        for level in range(net.level_count)
    ]
