"""Ranges: the byte ranges of every tensor that a plan makes, each wide enough for the integer arithmetic behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from nested_sparse.graph.contract import LAYER, LINEAR, RESIDUAL_INPUT, X_INPUT
from nested_sparse.quantization import row_scales
from nested_sparse.writer import LayerRecord

from ..nodes import is_ours
from .byte_range import ByteRange
from .calibrate import Calibration
from .histogram import Histogram
from .plan import Plan, Step

MOST_WIDENED = 2.0
"""Largest factor by which a range grows so that no row's multiplier saturates; single rows beyond it do."""
LARGEST_MULTIPLIER = 1 / 8
LARGEST_RATIO = 15.9

Levels = Sequence[ByteRange]


@dataclass(frozen=True, slots=True)
class Ranges:
    """of: (L) ranges of each tensor, by name."""

    of: Mapping[str, Levels]

    def __getitem__(self, value: ir.Value) -> Levels:
        return self.of[str(value.name)]


def calibrated_ranges(calibration: Calibration, method: Callable[[Histogram], ByteRange]) -> dict[str, Levels]:
    """The range that `method` chooses for each tensor at each level, by the tensor's name."""
    return {name: [method(seen) for seen in levels] for name, levels in calibration.seen.items()}


def choose_ranges(
    plan: Plan,
    calibrated: Mapping[str, Levels],
    records: Mapping[str, LayerRecord],
    tuned: Mapping[str, NDArray[np.float32]],
) -> Ranges:
    """The ranges of the plan's tensors, step after step.

    tuned: (L, 2) least and largest value of the input of each layer that fine-tuning has rounded, by layer; they take
    the place of calibrated ones.
    """
    chosen = dict(calibrated)
    for node in [*(step.node for step in plan.steps.values()), *plan.linear]:
        name = str(range_read(plan, node).name)
        if name in chosen and _layer(node) in tuned:
            chosen[name] = [ByteRange.of(*limits) for limits in tuned[_layer(node)].tolist()]
    for value in plan.sums:
        # A level may be lowered between two layers. The sums of the denser level then go on through the sums
        # of the sparser one, whose own range may be half as wide.
        chosen[str(value.name)] = _of_denser_too(chosen[str(value.name)])
    for step in plan.steps.values():
        made = step.node.outputs[0] if step.function else step.answer
        if step.passes or str(made.name) not in chosen:
            continue
        least = _least_scales(step, plan, chosen, records)
        chosen[str(made.name)] = [
            each.widened(scale) for each, scale in zip(chosen[str(made.name)], least, strict=True)
        ]
    return Ranges(chosen)


def _of_denser_too(levels: Levels) -> Levels:
    """Ranges that hold those of all denser levels."""
    limits = np.array([each.limits for each in levels])
    lows = np.minimum.accumulate(limits[::-1, 0])[::-1]
    highs = np.maximum.accumulate(limits[::-1, 1])[::-1]
    return [
        each if (low, high) == each.limits else ByteRange.of(low, high)
        for each, low, high in zip(levels, lows.tolist(), highs.tolist(), strict=True)
    ]


def range_read(plan: Plan, node: ir.Node) -> ir.Value:
    """The tensor whose range the node's input has."""
    x = node.inputs[X_INPUT]
    assert x is not None
    return x if is_ours(node, LINEAR) else plan.ranged(x)


def _layer(node: ir.Node) -> str:
    return node.attributes[LAYER].as_string() if LAYER in node.attributes else ""


def _least_scales(
    step: Step, plan: Plan, chosen: Mapping[str, Levels], records: Mapping[str, LayerRecord]
) -> NDArray[np.float64]:
    """(L) the smallest scale of the step's sums with which no multiplier of the epilogue saturates."""
    made = str((step.node.outputs[0] if step.function else step.answer).name)
    images = {
        id(value): np.array([each.scale for each in chosen[str(plan.ranged(value).name)]]) for value in step.images
    }
    least = np.zeros(len(chosen[made]))
    record = records.get(_layer(step.node))
    if record is None:
        for scales in images.values():  # a sum's or a product's: 2^11 · s / s_y fits into 15 bits
            least = np.maximum(least, scales / LARGEST_RATIO)
        return least
    residual = step.node.inputs[RESIDUAL_INPUT]
    if residual is not None:
        least = np.maximum(least, images[id(residual)] / LARGEST_RATIO)
    gains = np.abs(record.norms[:, 0].astype(np.float64)) * row_scales(record.weight)
    used = np.stack([record.weight.at(level).any(axis=1) for level in range(len(gains))])
    gains = np.where(used, gains, 0.0)  # the norm of a row that a level leaves without weights may have any scale
    x = step.node.inputs[X_INPUT]
    wide = images[id(x)] * gains.max(axis=1) / LARGEST_MULTIPLIER
    now = np.array([each.scale for each in chosen[made]])
    found: NDArray[np.float64] = np.maximum(least, np.minimum(wide, MOST_WIDENED * now))
    return found
