"""Int8: calibration inputs, and ONNX Runtime's own ways to make a dense model int8.

Activations unsigned, weights signed: without VNNI on an AVX-512 core, ResNet-50 takes 44 ms so, 77 ms with both signed
and 70 ms with both unsigned. With VNNI a linear layer of 4096 × 4096 takes 1.2 ms so and 1.5 ms with both unsigned.
Weights per tensor in place of per channel gain nothing in either.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..machine import int8_instructions

INT8 = "int8"
CALIBRATION_IMAGES = 8


def calibration_images(shape: Sequence[int]) -> list[NDArray[np.float32]]:
    """Normal noise of one shape: the models were made from the same kind of input. All engines calibrate on these."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(tuple(shape), np.float32) for _ in range(CALIBRATION_IMAGES)]


def quantised_statically(model: Path, shape: Sequence[int], *, per_channel: bool = True) -> Path:
    """Write the int8 twin of `model` (input "input" of `shape`) beside it, as QDQ nodes; returns its path."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = calibration_images(shape)

        def get_next(self) -> Mapping[str, NDArray[Any]] | None:
            return {"input": self._left.pop()} if self._left else None

    path = model.with_suffix(f".{INT8}{'' if per_channel else '-per-tensor'}.onnx")
    with _no_advice():
        quantize_static(
            str(model),
            str(path),
            Images(),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=_saturates(),
        )
    return path


def quantised_for_any_input(model: Path) -> Path:
    """Write the int8 twin of `model` whose inputs are quantised by the range that they have at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = model.with_suffix(f".{INT8}.onnx")
    with _no_advice():
        quantize_dynamic(
            str(model), str(path), per_channel=True, weight_type=QuantType.QInt8, reduce_range=_saturates()
        )
    return path


def _saturates() -> bool:
    """Whether ONNX Runtime's sums of two products saturate here, so that weights get seven bits, as it advises.

    That is on x86 without VNNI. With eight bits, a linear layer of random weights was off by a quarter of its largest
    output there.
    """
    return platform.machine() in ("x86_64", "AMD64") and not int8_instructions()


@contextmanager
def _no_advice() -> Iterator[None]:
    """Without its advice to preprocess the model: 45.4 ms with that, 46.0 without."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
