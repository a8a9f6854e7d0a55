"""products_left: FLOPs of the nodes that multiply in ONNX Runtime, beside the layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

Shape = Sequence[int]

LEFT = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "LSTM", "GRU", "RNN"})
"""Operators that are counted: those that hold most of the FLOPs of networks."""


def flops_left(operator: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """FLOPs of a node, 2 for each multiply-add. inputs, outputs: shapes, those of absent ones left out."""
    x, weight = inputs[:2]
    if operator in ("MatMul", "Gemm"):
        inner = x[-1] if operator == "MatMul" else math.prod(x) // max(1, outputs[0][0])
        return 2 * math.prod(outputs[0]) * inner
    if operator == "Conv":
        return 2 * math.prod(outputs[0]) * math.prod(weight[1:])
    if operator == "ConvTranspose":
        return 2 * math.prod(x) * math.prod(weight[1:])
    recurrence = inputs[2]
    return 2 * x[0] * x[1] * (math.prod(weight) + math.prod(recurrence))
