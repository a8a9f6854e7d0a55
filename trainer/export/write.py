"""export: the writing of a nested torch model as one checkpoint file, from which the runtime answers alike."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nested_sparse.argument import file_path, real, shown
from nested_sparse.errors import CheckpointError, ExportError
from nested_sparse.reroute import Reroute, check_reroutes
from nested_sparse.state import check_state
from nested_sparse.tensor_spec import batch_is_free
from nested_sparse.value_type import FLOAT32, INT8, value_type
from nested_sparse.writer import LayerRecord, refuse_existing, write_checkpoint

from ..entry import entry
from ..model.forward_call import ForwardCall
from ..model.int8 import not_rounded
from ..model.modes import evaluating
from ..model.nested_model import NestedModel, require_nested
from ..model.network import log_network, network_of
from ..model.preserved import preserved, preserved_generators
from .activations import fold_activations
from .asked_sizes import asked_sizes
from .example_run import run_example
from .fuse import fuse
from .input_norms import fold_input_norms
from .int8.byte_range import METHODS
from .int8.quantise import Int8Options, quantise
from .records import layer_records, level_records, norm_tables
from .row_mark import mark_export
from .tile import tile_images
from .trace import OwnGraph, TracedGraph, trace
from .trial_inputs import refused_ones
from .verify import Alike, Rounded, stored_weights, verify_export

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
    state: Mapping[str, str] | None = None,
    fixed_batch: bool = False,
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None = None,
    values: str = FLOAT32.name,
    calibration: Iterable[Any] | None = None,
    calibration_samples: int = 512,
    calibration_method: str = next(iter(METHODS)),
    activations: str | None = None,
    keep_float: Sequence[str] = (),
    force: bool = False,
    verify: bool = True,
    tolerance: float = 1e-4,
) -> Path:
    """Write `net` with all its levels to `path`, and return it.

    example_inputs: arguments of forward: tensors with the batch as dimension 0, which stays free unless `fixed_batch`;
        numbers; tuples, lists and dicts of tensors; None for an optional argument that is left out. A last dict whose
        keys are forward's parameters holds keyword arguments, as in torch.onnx.export; put {} after a dict that does
        not.
    metrics: name -> one finite value per level, sparsest first, e.g. {"accuracy": [0.91, 0.93]}.
    reroutes: result of `measure_reroutes`, so that a runtime knows the expected accuracy of a lowered inference.
    input_names, output_names: names of the tensors. Default: `input` and `output` where there is one; else forward's
        parameter names, and output_0, …; in dicts, named tuples and dataclasses the keys, with the path behind them:
        past_key_values_0_1. Arguments that are None get no name.
    state: for a network that answers piece by piece, output -> the input that takes it at the next request, e.g.
        {"h_out": "h", "c_out": "c"}. A server can then keep them for its clients (docs/serving.md, "Sequences").
    dynamic_shapes: the sizes that each run may choose, in place of the batch alone, as in torch.onnx.export: by
        forward's parameter or in a tuple, for each dimension a name, a torch.export.Dim with its bounds, Dim.AUTO,
        DYNAMIC or STATIC, e.g. {"input_ids": {0: "batch", 1: "length"}}; all others are fixed. Dimensions of one name
        have one size in a run. A name that one dimension of every input has is the batch, where it is dimension 0 of
        one of them, or "batch". A size that must be the sum of others is found. The file is compared with torch at
        small, odd and large sizes (docs/training.md).
    values: type of the stored weights. "float16" takes half the bytes: each weight is rounded to the nearest float16
        (ties to even; the error is at most 2^-11 of its magnitude, or 2^-25 below 2^-14), for all levels alike, and
        arithmetic stays float32. Refused where a kept weight's magnitude is above 65504. "int8" takes a quarter of
        the bytes and computes in bytes (docs/int8.md): whole numbers from -127 to 127 with a scale for each row.
    calibration: for int8, batches of real inputs: (inputs, targets) as for training, of which no target is used. The
        ranges of activations are chosen from them. Only a network without convolutions can do without; the ranges of
        its linear layers' inputs are then found at each run.
    calibration_samples: batches are read until at least so many samples are seen.
    calibration_method: way to choose a range from the values seen: "mse" (least mean square error), "percentile" (all
        values but 0.01 %) or "minmax" (all values).
    activations: form in which int8 linear layers take their inputs: "static" (bytes in calibrated ranges, the default
        with calibration), "dynamic" (bytes in the range of each row of the input, the default without) or "float32"
        (only the weights are int8, for layers bound by memory).
    keep_float: names of layers that keep float32 values in an int8 file, or fnmatch patterns of them. Layers of more
        than 32768 inputs do so by themselves, and those that would lose too much (below 20 dB); each is logged.
    force: replace an existing file.
    verify: before the file gets its name, run it at every level and compare with torch, of which the weights are
        rounded like the file's; needs the built kernels. A calibrated int8 file is compared on the calibration's first
        samples. This also finds out whether rows are independent, without which a server does not run the requests of
        several clients as one batch (runtime.check_rows).
    tolerance: largest accepted difference, as a share of the largest magnitude of the output. An int8 file must agree
        within half of the output's root mean square, whatever the tolerance.

    Afterwards `net`, its level, train mode and buffers, the examples, random generators and torch's settings are as
    before. After an error, nothing new is at `path`.
    Raises ExportError (the message names the module at fault), CheckpointError (`path` exists or cannot be written),
    LevelError and InputError (`reroutes` are those of another model).
    """
    path = file_path("path", path)
    refuse_existing(path, force)
    require_nested(net, ExportError)
    stored = value_type(values, ExportError)
    tolerance = real("tolerance", tolerance, 0, error=ExportError)
    metrics = _checked_metrics({} if metrics is None else metrics, net.level_count)
    check_reroutes(reroutes, net.level_count, net.nested_layers())
    options = Int8Options(calibration, calibration_samples, calibration_method, activations, keep_float)
    if stored is not INT8 and options != Int8Options():
        raise ExportError(
            "calibration and its options, activations and keep_float go with values='int8', got "
            f"values={values!r}; pass values='int8', or leave them out"
        )
    given = [name for name in (input_names, output_names, dynamic_shapes) if name is not None]
    if isinstance(net.model, OwnGraph) and (given or fixed_batch):
        raise ExportError(
            "input_names, output_names, dynamic_shapes and fixed_batch are those of the ONNX file; leave them out"
        )
    if fixed_batch and dynamic_shapes is not None:
        raise ExportError("dynamic_shapes says whether the batch is free, too; leave fixed_batch out")
    _check_weights(net)
    with not_rounded(net), evaluating(net), _densest(net), preserved_generators(), preserved(net.model) as before:
        call = ForwardCall(net.model, example_inputs)
        tables = norm_tables(net)
        asked = None if dynamic_shapes is None else asked_sizes(net.model, call, dynamic_shapes)
        example = run_example(net, call, before, tolerance)
        traced = (
            net.model.traced(call.tensors, [tensor for _, tensor in example.answer])
            if isinstance(net.model, OwnGraph)
            else trace(
                net.model,
                call,
                example.answer,
                writes_inputs=example.writes_inputs,
                input_names=input_names,
                output_names=output_names,
                fixed_batch=fixed_batch,
                asked=asked,
            )
        )
        before.restore()
        _check_state(state, traced)
        if traced.sizes is not None:
            traced = traced.from_two(refused_ones(traced.inputs, traced.sizes.unsure, net.model, call, before))
        fixed_batch = not batch_is_free(traced.inputs)
        fused = fuse(traced.model, tables, net.level_count, traced.values)
        layers = layer_records(net, fused, tables, FLOAT32 if stored is INT8 else stored)
        agreement: Alike | Rounded = Alike(tolerance)
        if stored is INT8:
            quantised = quantise(net, fused, layers, traced.inputs, options, fixed_batch=fixed_batch)
            layers, agreement = quantised.records, Rounded(quantised.first)
        fold_activations(fused.model)
        fold_input_norms(fused.model)
        tile_images(fused.model)
        _report_uncalled(net, layers, traced.parameters)
        whole = asked is None and traced.sizes is None and call.tensors[0].dim()
        axis = 0 if whole else traced.inputs[0].batch_axis
        samples = 1 if axis is None else int(call.tensors[0].shape[axis])
        network = network_of(net, example.costs, samples, fused.norm_of, traced.parameters)
        log_network(log, network)
        with _folder_beside(path) as folder:
            unproven = folder / path.name
            write_checkpoint(
                unproven,
                graph_builder=fused.to_bytes,
                layers=layers,
                levels=level_records(net, layers, example.costs, network, samples, metrics),
                inputs=traced.inputs,
                outputs=traced.outputs,
                reroutes=reroutes,
                network=network,
                state=state or {},
                graph_version=fused.version,
            )
            if verify:
                with stored_weights(net, stored):
                    verify_export(
                        net,
                        tuple(example_inputs),
                        unproven,
                        fixed_batch=fixed_batch,
                        agreement=agreement,
                    )
                mark_export(unproven, traced.inputs, traced.outputs, call.tensors)
            refuse_existing(path, force)
            try:
                os.replace(unproven, path)
            except OSError as error:
                raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path


@contextmanager
def _densest(net: NestedModel) -> Iterator[None]:
    """Context in which `net` is at its densest level; afterwards it has its present level again."""
    level = net.level
    try:
        net.set_level(-1)
        yield
    finally:
        net.set_level(level)


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A temporary folder on the file system of `path`, so that a file in it can be renamed. Raises CheckpointError."""
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
                f"layer {name!r} has {layer.values.dtype} weights, but nested layers compute in float32; call .float() "
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
            raise ExportError(f"metrics: expected names that are strings, got {shown(name)}")
        try:
            checked[name] = [float(value) for value in values]
        except (TypeError, ValueError):
            raise ExportError(f"metrics[{name!r}]: expected {level_count} numbers, got {values!r}") from None
        if len(checked[name]) != level_count or not all(math.isfinite(value) for value in checked[name]):
            raise ExportError(
                f"metrics[{name!r}]: expected one finite value for each of {level_count} levels, got {values!r}"
            )
    return checked


def _check_state(state: Mapping[str, str] | None, traced: TracedGraph) -> None:
    if state is None:
        return
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for pair in state.items() for name in pair):
        raise ExportError(f"state: expected names of outputs with names of inputs, got {shown(state)}")
    try:
        check_state(state, traced.inputs, traced.outputs)
    except ValueError as error:
        raise ExportError(str(error)) from None


def _report_uncalled(net: NestedModel, layers: Sequence[LayerRecord], parameters: Collection[str]) -> None:
    """Log a warning with the nested layers that the file lacks: forward neither calls them nor reads their weights."""
    nested, held = net.nested_layers(), {record.weight.name for record in layers}
    read = {id(net.model.get_parameter(name)) for name in parameters}
    gone = [name for name, layer in nested.items() if name not in held and id(layer.values) not in read]
    if gone:
        log.warning("forward does not call %s in eval mode; the file does not contain it", ", ".join(gone))
