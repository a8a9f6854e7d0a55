"""quantise: a fused float32 graph and the records of its layers, turned into those of an int8 file."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nested_sparse.argument import shown, whole
from nested_sparse.errors import ExportError
from nested_sparse.excerpt import excerpts
from nested_sparse.graph.contract import (
    ACTIVATION_FORMS,
    DYNAMIC,
    LAYER,
    LAYER_KINDS,
    STATIC,
)
from nested_sparse.layouts.quads import MOST_ROWS
from nested_sparse.quantization import MAX_COLUMNS
from nested_sparse.tensor_spec import TensorSpec
from nested_sparse.value_type import INT8
from nested_sparse.writer import LayerRecord

from ...layer_names import chosen_layers
from ...model.nested_model import NestedModel
from ..fuse import FusedGraph
from .byte_range import METHODS
from .calibrate import Calibration, calibrate
from .noise import signal_to_noise_db
from .plan import Plan, plan
from .ranges import Ranges, calibrated_ranges, choose_ranges
from .rewrite import rewrite

log = logging.getLogger(__name__)

LEAST_SQNR_DB = 20.0
"""A layer whose predicted signal-to-quantisation-noise ratio is lower at some level stays float32."""


@dataclass(frozen=True, slots=True)
class Int8Options:
    """Options of an int8 export: the parameters of `export` of these names. Raises ExportError."""

    calibration: Iterable[Any] | None = None
    samples: int = 512
    method: str = next(iter(METHODS))
    activations: str | None = None
    keep_float: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check the values."""
        whole("calibration_samples", self.samples, 1, error=ExportError)
        if self.method not in METHODS:
            raise ExportError(f"calibration_method: expected one of {tuple(METHODS)}, got {shown(self.method)}")
        if self.activations not in (None, *ACTIVATION_FORMS):
            raise ExportError(f"activations: expected one of {ACTIVATION_FORMS}, got {shown(self.activations)}")
        names = None if isinstance(self.keep_float, str) else self.keep_float
        if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
            raise ExportError(
                f"keep_float: expected names of layers, or fnmatch patterns of them, in a list, got "
                f"{shown(self.keep_float)}"
            )
        object.__setattr__(self, "keep_float", tuple(names))
        if self.activations == STATIC and self.calibration is None:
            raise ExportError("activations='static' needs calibration: pass batches of real inputs")

    @property
    def linear_form(self) -> str:
        """The form in which linear layers take their inputs."""
        return self.activations or (DYNAMIC if self.calibration is None else STATIC)


@dataclass(frozen=True, slots=True)
class Quantised:
    """records: of the file's layers. first: some of the calibration's samples, in the order of the inputs, or none."""

    records: list[LayerRecord]
    first: Sequence[NDArray[Any]]


def quantise(
    net: NestedModel,
    fused: FusedGraph,
    records: Sequence[LayerRecord],
    inputs: Sequence[TensorSpec],
    options: Int8Options,
    *,
    fixed_batch: bool,
) -> Quantised:
    """Turn `fused`, not tiled, into the int8 graph, in place, and return the records that go with it.

    Layers stay float32 where `keep_float` names them, where they have too many columns, and where the predicted error
    is too large (LEAST_SQNR_DB). Raises ExportError.
    """
    by_name = {record.weight.name: record for record in records}
    candidates = _candidates(by_name, options.keep_float)
    wide = plan(fused.model, candidates)
    calibration = _calibrated(net, fused, wide, records, inputs, options, fixed_batch=fixed_batch)
    calibrated, tuned = calibrated_ranges(calibration, METHODS[options.method]), _tuned_ranges(net)
    ranges = choose_ranges(wide, calibrated, by_name, tuned)
    ratios = _ratios(wide, by_name, ranges, calibration, static=options.linear_form == STATIC)
    kept = {name for name, values in ratios.items() if min(values) >= LEAST_SQNR_DB}
    _report(ratios, kept)
    final = plan(fused.model, kept)
    ranges = choose_ranges(final, calibrated, by_name, tuned)
    rewrite(fused.model, final, ranges, options.linear_form)
    quantised = [
        replace(
            record,
            value_type=INT8 if record.weight.name in kept else record.value_type,
            sqnr_db=ratios.get(record.weight.name, ()),
        )
        for record in records
    ]
    return Quantised(quantised, list(calibration.first.values()))


def _candidates(records: Mapping[str, LayerRecord], keep_float: Sequence[str]) -> set[str]:
    kept = chosen_layers("keep_float", keep_float, records, ExportError)
    without = {
        name: reason
        for name, record in records.items()
        if (reason := _why_float(LAYER_KINDS[record.op].quantized is not None, record.weight.columns))
    }
    found = records.keys() - without.keys() - kept
    high = sorted(name for name in found if records[name].weight.layout.block_rows > MOST_ROWS)
    if high:
        raise ExportError(
            f"values='int8': its blocks have at most {MOST_ROWS} rows, and these layers have higher ones: "
            f"{excerpts(high)}; export with values='float16', or nest with pattern='block{MOST_ROWS}x1'"
        )
    if not found:
        reasons = {"without an int8 operator": sorted(without.keys() - kept), "named by keep_float": sorted(kept)}
        listed = "; ".join(f"{reason}: {excerpts(names)}" for reason, names in reasons.items() if names)
        raise ExportError(f"values='int8': no layer is left for it ({listed}); export with values='float32'")
    for name in sorted(without.keys() - kept):
        log.warning("layer %r stays float32: %s", name, without[name])
    return found


def _why_float(has_operator: bool, columns: int) -> str:
    """Why no int8 file holds a layer as int8; "" where one may."""
    if not has_operator:
        return "int8 has no operator for it"
    return f"it has {columns} columns, and int8 sums at most {MAX_COLUMNS}" if columns > MAX_COLUMNS else ""


def _calibrated(
    net: NestedModel,
    fused: FusedGraph,
    wide: Plan,
    records: Sequence[LayerRecord],
    inputs: Sequence[TensorSpec],
    options: Int8Options,
    *,
    fixed_batch: bool,
) -> Calibration:
    wanted = wide.wanted(static=options.linear_form == STATIC)
    if options.calibration is None:
        if wide.steps:
            name = next(iter(wide.steps.values())).node.name
            raise ExportError(
                f"values='int8' needs calibration for convolutions such as {name!r}: pass batches of real inputs, "
                "as for training, e.g. calibration=[(images, labels)]"
            )
        return Calibration({}, 0, {})
    unknown = [name for name, value in wanted.items() if value.shape is None]
    if unknown:
        raise ExportError(f"the shape of {unknown[0]!r} in the graph is not known, so it cannot be calibrated")
    found = calibrate(
        net, fused, list(wanted), records, inputs, options.calibration, samples=options.samples, fixed_batch=fixed_batch
    )
    _check_inputs(found, inputs)
    log.info("calibrated %d tensors at %d levels with %d samples", len(wanted), net.level_count, found.samples)
    return found


def _check_inputs(found: Calibration, inputs: Sequence[TensorSpec]) -> None:
    for spec in inputs:
        levels = found.seen.get(spec.name, ())
        if levels and levels[0].least == levels[0].largest:
            raise ExportError(
                f"calibration: input {spec.name!r} has the value {levels[0].least:g} everywhere; pass real inputs"
            )


def _tuned_ranges(net: NestedModel) -> dict[str, NDArray[np.float32]]:
    """(L, 2) range of the input of each layer that fine-tuning has rounded at every level."""
    found = {}
    for name, layer in net.nested_layers().items():
        ranges = layer.int8_ranges
        if ranges is not None and bool(ranges.isfinite().all()):
            found[name] = ranges.cpu().numpy()
    return found


def _ratios(
    wide: Plan, records: Mapping[str, LayerRecord], ranges: Ranges, calibration: Calibration, *, static: bool
) -> dict[str, tuple[float, ...]]:
    """Predicted signal-to-noise ratios, by layer; the least of a layer that is used at several places.

    static: whether linear layers take inputs in calibrated ranges.
    """
    found: dict[str, tuple[float, ...]] = {}
    nodes = [(step.node, True) for step in wide.steps.values() if LAYER in step.node.attributes]
    for node, rounds in [*nodes, *((node, static) for node in wide.linear)]:
        name = node.attributes[LAYER].as_string()
        ratio = signal_to_noise_db(wide, node, records[name], ranges, calibration, rounds_input=rounds)
        found[name] = tuple(map(min, ratio, found.get(name, ratio)))
    return found


def _report(ratios: Mapping[str, Sequence[float]], kept: Collection[str]) -> None:
    for name, values in ratios.items():
        if name not in kept:
            log.warning(
                "layer %r stays float32: int8 would have a signal-to-noise ratio of %.1f dB, below %g",
                name,
                min(values),
                LEAST_SQNR_DB,
            )
    if not kept:
        raise ExportError(
            f"int8 loses too much in every layer (below {LEAST_SQNR_DB:g} dB); calibrate with other inputs, or export "
            "with values='float32'"
        )
