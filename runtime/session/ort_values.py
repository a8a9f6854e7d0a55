"""run_values(): a run whose inputs or outputs ONNX Runtime cannot exchange as numpy arrays, those of bfloat16."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from nested_sparse.bfloat16 import BFLOAT16, NAME
from nested_sparse.errors import CheckpointError
from nested_sparse.tensor_spec import TensorSpec

from .tensors import Array

ONNX_BFLOAT16 = 16
"""ONNX's number of the type, TensorProto.BFLOAT16."""
SUPPORTED = hasattr(ort.OrtValue, "ortvalue_from_numpy_with_onnx_type")
"""Older versions of ONNX Runtime take no values of types that numpy lacks."""


def check_exchangeable(where: str, specs: Sequence[TensorSpec]) -> None:
    """Raise CheckpointError where a tensor is of bfloat16, and ONNX Runtime is too old for that."""
    if not SUPPORTED and any(spec.dtype == NAME for spec in specs):
        raise CheckpointError(
            f"{where}: has tensors of {NAME}, which onnxruntime {ort.__version__} cannot exchange; install a newer one"
        )


def run_values(session: Any, names: Sequence[str], feeds: Mapping[str, Any], options: Any) -> list[Array]:
    """As InferenceSession.run(), with arrays of BFLOAT16 among those of `feeds` and of the results."""
    values = {name: _value(feed) for name, feed in feeds.items()}
    return [_array(result) for result in session.run_with_ort_values(list(names), values, options)]


def _value(feed: Any) -> Any:
    if isinstance(feed, ort.OrtValue):
        return feed
    if feed.dtype == BFLOAT16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(feed.view(np.uint16), ONNX_BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(feed)


def _array(value: Any) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        array: Array = value.numpy()
        return array
    shape = tuple(value.shape())
    count = int(np.prod(shape))
    if count == 0:
        return np.empty(shape, BFLOAT16)
    bits = np.ctypeslib.as_array((ctypes.c_uint16 * count).from_address(value.data_ptr()))
    return bits.copy().view(BFLOAT16).reshape(shape)
