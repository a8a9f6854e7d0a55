"""nest_onnx: an ONNX file to a checkpoint file of nested levels, without training."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nested_sparse.argument import file_path, real, shown, whole
from nested_sparse.budget import check_densities
from nested_sparse.errors import BudgetError, ExportError, InputError, PatternError, TrainingError
from nested_sparse.level import ACCURACY
from nested_sparse.value_type import FLOAT32, INT8, value_type
from nested_sparse.writer import refuse_existing

from ..entry import entry
from ..export.verify import Alike, Rounded
from ..export.write import export
from ..model.layer_patterns import AUTO
from ..model.nested_model import NestedModel, nest
from ..post_training.levels import DAMPING, find_levels
from ..post_training.report import LevelReport, level_report
from .onnx_network import OnnxNetwork
from .own_sparsity import OwnSparsity, own_sparsity
from .prepare import prepare
from .read import read_onnx
from .samples import Arrays, Samples, read_samples
from .segments import Runner
from .traced import input_specs

log = logging.getLogger(__name__)

REPORT_SAMPLES = 8
"""Samples of a report, which takes a pass for each layer."""
COMPARED_RUNS = 4
"""Runs, or samples, on which the network is compared with the file."""


@dataclass(frozen=True, slots=True)
class NestedFile:
    """A checkpoint that was made of an ONNX file.

    path: its file. net: its network in torch, at the densest level; it cannot be trained. report: the costs of its
    levels and layers; None where there is none.
    """

    path: Path
    net: NestedModel
    report: LevelReport | None = None


@entry(ExportError)
@torch.no_grad()
def nest_onnx(
    path: str | os.PathLike[str],
    calibration: str | os.PathLike[str] | Arrays,
    output: str | os.PathLike[str],
    *,
    densities: Sequence[float],
    pattern: str | None = None,
    budget: str | None = None,
    values: str = FLOAT32.name,
    keep_dense: Sequence[str] = (),
    labels: str | None = None,
    samples: int | None = None,
    sizes: Mapping[str, int] | None = None,
    force: bool = False,
    tolerance: float = 1e-4,
    keep_values: bool | None = None,
    report: bool = False,
    **options: Any,
) -> NestedFile:
    """Write the ONNX model at `path` as a checkpoint of nested levels to `output`.

    The weights of Conv, ConvTranspose, Gemm, MatMul, LSTM and GRU that are constants of the graph become nested layers,
    called as torch called them or after their nodes. All other nodes stay. The levels are those of `nest_pretrained`.
    calibration: an NPZ file, or arrays by name: one for each input, with the samples along its first dimension.
    densities, pattern, budget, keep_dense, options: as of `nest_pretrained`. A file that is sparse already, by a tenth
        of zeros in a layer, keeps its zeros: they are the densest level, after the densities below its own, and that
        level answers as the file does. pattern None: "unstructured"; blocks where the file's zeros are whole blocks.
    values: as of `export`; "int8" takes its ranges from the calibration.
    labels: name of an array in calibration with the class index of each sample. The accuracy of each level is then
        stored in the file: the share of samples at which the first output is right. Of numbers with classes along
        dimension 1, the largest counts.
    samples: number of samples to use, from the first on. None: 256, of large inputs fewer: 55 images of 224 × 224.
    sizes: sizes of free dimensions, by the names that they have in the file, which become fixed.
    tolerance: largest accepted difference of the file from ONNX Runtime, as a share of the largest magnitude of an
        output. The reference is ONNX Runtime itself: with the file as it is, and, level by level, with the level's
        weights in the file's graph.
    keep_values: whether all levels have the file's values, at the cost of the sparser ones; else values are solved.
        None: where the densest level drops nothing (density 1, or of a file that is sparse already), which then answers
        as the file does.
    report: whether to measure what each level and each layer costs (`level_report`), on a few of the samples.
    After an error, nothing new is at `output`.
    Raises ExportError (the model), InputError (calibration), CheckpointError (`output`), and what `nest` raises.
    """
    output = file_path("output", output)
    refuse_existing(output, force)
    check_densities(densities)
    samples = None if samples is None else whole("samples", samples, 1, error=InputError)
    stored, tolerance = value_type(values, ExportError), real("tolerance", tolerance, 0, error=ExportError)
    where = file_path("path", path).name
    if not isinstance(calibration, Mapping):
        _refuse_source(output, Path(calibration))
    model = read_onnx(path, lambda source: _refuse_source(output, source))
    unrounded, batch = prepare(model, where, _checked_sizes(sizes))
    network = OnnxNetwork.of(model, batch, where)
    data = read_samples(calibration, input_specs(network.plan), labels, samples)
    alike = Alike(tolerance)
    _check_reads_alike(network, data, Runner(Path(path), optimise=False), Rounded() if unrounded else alike)
    if unrounded is not None:  # its weights, too, which the roundings of the file itself would hide
        _check_reads_alike(network, data, Runner(unrounded, optimise=False), alike)
    options |= {"budget": budget, "keep_dense": keep_dense, "keep_values": keep_values}
    net = _nested(network, data, densities=densities, pattern=pattern, **options)
    metrics = {} if data.labels is None else {ACCURACY: _accuracy(net, data, data.labels)}
    given: dict[str, Any] = (
        {}
        if stored is not INT8
        else {"calibration": [(network.given(data.run(each)), None) for each in range(data.runs)]}
    )
    example = network.given(data.first(1))
    costs = _report(net, network, data) if report else None
    written = export(net, example, output, metrics=metrics, values=values, force=force, tolerance=tolerance, **given)
    return NestedFile(written, net, costs)


def _report(net: NestedModel, network: OnnxNetwork, data: Samples) -> LevelReport | None:
    """The costs of levels and layers; None, and a line in the log, where outputs or inputs do not allow them."""
    inputs = data.first(REPORT_SAMPLES)
    assert isinstance(net.model, OnnxNetwork)
    if not data.free and len({len(each) for each in inputs}) > 1:
        log.warning("no report: the inputs have samples along other dimensions than 0")
        return None
    network.runs = net.model.runs = min(REPORT_SAMPLES, data.runs)
    try:
        return level_report(net, network, [(inputs, None)], samples=len(inputs[0]))
    except TrainingError as error:
        log.warning("no report: %s", error)
        return None
    finally:
        network.runs = net.model.runs = 1


def _refuse_source(output: Path, source: Path) -> None:
    """Raise ExportError where `output` is a file that is read."""
    if output.exists() and source.exists() and output.samefile(source):
        raise ExportError(f"{output}: is a file that is read, which the checkpoint would replace; name another file")


def _checked_sizes(sizes: Mapping[str, int] | None) -> dict[str, int]:
    if sizes is not None and not isinstance(sizes, Mapping):
        raise ExportError(f"sizes: expected names with a size each, e.g. {{'batch': 1}}, got {shown(sizes)}")
    return {name: whole(f"sizes[{name!r}]", size, 1, error=ExportError) for name, size in (sizes or {}).items()}


def _check_reads_alike(network: OnnxNetwork, data: Samples, original: Runner, agreement: Alike | Rounded) -> None:
    """Raise ExportError unless the network, before it is nested, answers as ONNX Runtime with the file itself.

    original: the file as it is; ONNX Runtime's own optimisations may round more than the file says.
    """
    compared = [data.first(COMPARED_RUNS)] if data.free else map(data.run, range(min(COMPARED_RUNS, data.runs)))
    for inputs in map(network.given, compared):
        with network.advised():
            expected = original.run(dict(zip(network.plan.input_names, inputs, strict=True)))
        answer = network(*inputs)
        got = answer if isinstance(answer, tuple) else (answer,)
        for name, tensor in zip(network.plan.output_names, got, strict=True):
            problem = agreement.problem(_table(expected[name]), tensor.numpy())
            if problem:
                again = original.run(dict(zip(network.plan.input_names, inputs, strict=True)))
                why = (
                    "please report the model"
                    if np.array_equal(_table(again[name]), _table(expected[name]), equal_nan=True)
                    else "the file itself answers otherwise in every run, so it cannot be compared; save it without "
                    "the nodes that draw random numbers (Dropout in training mode, RandomNormal)"
                )
                raise ExportError(
                    f"{network.plan.where}: output {name!r} of the graph as it was read disagrees with ONNX Runtime, "
                    f"which ran the file: {problem}; {why}"
                )


def _table(answer: Any) -> NDArray[Any]:
    """An answer of ONNX Runtime as one array; of maps, as scikit-learn's models have them, a row each."""
    if isinstance(answer, Tensor):
        return answer.numpy()
    return np.array([[*each.values()] for each in answer], np.float32)


def _nested(
    network: OnnxNetwork,
    data: Samples,
    *,
    densities: Sequence[float],
    pattern: str | None,
    keep_values: bool | None,
    **options: Any,
) -> NestedModel:
    own = own_sparsity(network)
    if own is not None:
        densities = _levels_below(own, densities, network.plan.where)
    if pattern == AUTO:
        raise PatternError(
            "pattern 'auto' chooses by the costs of a device, which a model from an ONNX file does not take; name one: "
            "unstructured, block{V}x1, gs{B}x{k} or channel, or leave the pattern out"
        )
    pattern = pattern or (own.pattern if own else "unstructured")
    damping = real("damping", options.pop("damping", DAMPING), above=0, error=ExportError)
    try:
        net = nest(network, densities=densities, pattern=pattern, **options)
    except PatternError as error:
        if own is None:
            raise
        raise PatternError(
            f"{network.plan.where} is sparse already, and keeps its own zeros and no others as a level of density 1: "
            f"{error}; or leave the pattern out, which is then {own.pattern!r}"
        ) from error
    assert isinstance(net.model, OnnxNetwork)
    _check_some_sparse(net, network.plan.where)
    if keep_values is None and own is None and max(densities) == 1:
        log.info(
            "the densest level answers as the file does, so all levels have the file's values; sparser levels are "
            "better with keep_values=False (--solve)"
        )
    net.model.runs = data.runs
    find_levels(net, data.inputs, damping, keep_values=keep_values)
    net.model.runs = 1
    return net


def _check_some_sparse(net: NestedModel, where: str) -> None:
    """Raise BudgetError where no layer is sparse at any level, so that all levels would be the same."""
    layers = net.nested_layers().values()
    if net.level_count > 1 and all(layer.dense for layer in layers):
        raise BudgetError(
            f"{where}: none of its {len(layers)} nested layers is left to be sparse, so the {net.level_count} levels "
            "would be the same; name fewer layers in keep_dense (--keep-dense); depthwise ones are whole by themselves"
        )


def _levels_below(own: OwnSparsity, densities: Sequence[float], where: str) -> tuple[float, ...]:
    """The densities below the file's own, then 1: its own zeros are the densest level."""
    below = tuple(density for density in densities if density < own.density)
    log.info("%s is sparse already: %s; its own zeros are level %d, the densest", where, own.text, len(below))
    given = [f"{density:g}" for density in densities if own.density <= density < 1]
    if given:
        log.warning("%s keeps less than the densities %s; that level takes their place", where, ", ".join(given))
    return (*below, 1.0)


def _accuracy(net: NestedModel, data: Samples, labels: Any) -> list[float]:
    """The share of right answers of each level."""
    truth, found = torch.from_numpy(labels), []
    for level in range(net.level_count):
        net.set_level(level)
        right = 0
        parts = max(1, len(truth) // 32) if data.free else data.runs
        for inputs, wanted in zip(
            zip(*(each.chunk(parts) for each in data.inputs), strict=True), truth.chunk(parts), strict=True
        ):
            answer = net(*inputs)
            right += int((_classes(answer[0] if isinstance(answer, tuple) else answer, wanted) == wanted).sum())
        found.append(right / len(truth))
    net.set_level(-1)
    return found


def _classes(output: Tensor, wanted: Tensor) -> Tensor:
    """The class that an output names for each sample: a whole number, or the place of the largest number."""
    if output.is_floating_point() and output.ndim >= 2:
        if len(wanted) and int(wanted.max()) >= output.shape[1]:
            raise InputError(
                f"labels: expected class indices below {output.shape[1]}, the size of dimension 1 of the first output, "
                f"got {int(wanted.max())}; give other labels, or leave them out"
            )
        output = output.argmax(dim=1)
    if output.numel() != wanted.numel():
        raise InputError(
            f"labels: expected a first output [samples, classes], or one whole number a sample, got "
            f"{list(output.shape)} for {len(wanted)} samples; leave labels out"
        )
    return output.reshape(wanted.shape)
