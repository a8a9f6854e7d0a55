"""Layers: the kinds of torch layers that can be nested, each with the class that takes its place.

A new kind is a file here and an entry in KINDS.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from .conv import NestedConv1d, NestedConv2d, NestedConv3d
from .conv_transpose import TRANSPOSED
from .layer import GRADIENTS, NestedLayer, unique_weights
from .linear import NestedLinear
from .recurrent import GRURecurrence, LSTMRecurrence, NestedGRU, NestedLSTM, NestedProjection, Projection

KINDS: Mapping[type[nn.Module], type[NestedLayer]] = {
    nn.Conv1d: NestedConv1d,
    nn.Conv2d: NestedConv2d,
    nn.Conv3d: NestedConv3d,
    **TRANSPOSED,
    nn.Linear: NestedLinear,
    Projection: NestedProjection,
    LSTMRecurrence: NestedLSTM,
    GRURecurrence: NestedGRU,
}
"""Nested class by the torch class that it replaces. The exact type counts, as a subclass may compute something else."""

__all__ = ["GRADIENTS", "KINDS", "NestedLayer", "unique_weights"]
