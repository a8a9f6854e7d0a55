"""Noise: the predicted share of rounding to int8 in the output of a layer, against what the output has to say."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from nested_sparse.quantization import in_quads, out_of_quads, row_scales
from nested_sparse.weight import NestedWeight
from nested_sparse.writer import LayerRecord

from .calibrate import Calibration
from .plan import Plan
from .ranges import Ranges, range_read

MOST_DB = 120.0


def signal_to_noise_db(
    plan: Plan, node: ir.Node, record: LayerRecord, ranges: Ranges, calibration: Calibration, *, rounds_input: bool
) -> list[float]:
    """(L) predicted signal-to-quantisation-noise ratio of a layer's output at each level, in decibels.

    The errors of its weights and of its input add up, because both are independent of the values that they are
    multiplied by. The signal is the variance of the output: its mean, which a shift may have made of anything, says
    nothing. Without calibration, the ratio is that of the weights and their errors.

    rounds_input: whether its input is rounded to the calibrated range, too.
    """
    scales = row_scales(record.weight)
    rounded = out_of_quads(in_quads(record.weight, scales), scales)
    seen = [calibration.seen.get(str(value.name)) for value in (range_read(plan, node), node.outputs[0])]
    found = []
    for level in range(len(record.norms)):
        powers, errors = _row_powers(record.weight, rounded, level)
        signal, noise = powers.sum(), errors.sum()
        x, y = (None if levels is None else levels[level] for levels in seen)
        if x is not None and y is not None and y.variance > 0.0:
            gains = np.square(record.norms[level, 0].astype(np.float64))
            held = ranges.of[str(range_read(plan, node).name)][level].noise(x) if rounds_input else 0.0
            signal, noise = y.variance, (gains * (errors * x.mean_power + powers * held)).mean()
        found.append(_decibels(float(signal), float(noise)))
    return found


def _row_powers(
    weight: NestedWeight, rounded: NestedWeight, level: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(O) sums of the squares of each row's weights, and of their errors."""
    exact = weight.at(level).astype(np.float64)
    return np.square(exact).sum(axis=1), np.square(exact - rounded.at(level)).sum(axis=1)


def _decibels(signal: float, noise: float) -> float:
    if not noise or not signal:
        return MOST_DB
    return float(np.clip(10 * np.log10(signal / noise), -MOST_DB, MOST_DB))
