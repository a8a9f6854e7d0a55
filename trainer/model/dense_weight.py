"""DenseWeight: a weight of an ONNX file that no layer of ours multiplies, and the reason."""

from __future__ import annotations

from torch import Tensor, nn


class DenseWeight(nn.Module):
    """A weight that nodes of the graph read as it is.

    weight: of two or more dimensions. why: the reason, for lists of dense layers.
    """

    def __init__(self, weight: Tensor, why: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.why = why
