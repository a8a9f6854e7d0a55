"""Forward's code: modules of a user's own whose product may change, and which stay dense."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from nested_sparse.trainer import nest


class Styled(nn.Conv2d):
    """Another product where a second argument is given."""

    def forward(self, x: Tensor, style: Tensor | None = None) -> Tensor:
        """(N, C, H, W) to (N, O, H', W')."""
        weight = self.weight if style is None else self.weight * style
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class ByShape(nn.Module):
    """Another product for images than for rows, of the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 6) or (N, M, 6)."""
        return F.linear(x, self.weight.t()) if x.ndim == 3 else F.linear(x, self.weight)


class Hidden(ByShape):
    """The same in a method of its own."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 6) or (N, M, 6)."""
        return F.linear(x, self.turned(x))

    def turned(self, x: Tensor) -> Tensor:
        """The weight for such an input."""
        return self.weight.t() if x.ndim == 3 else self.weight


def turned(x: Tensor, weight: Tensor) -> Tensor:
    """The weight for such an input."""
    return weight.t() if x.ndim == 3 else weight


class Elsewhere(ByShape):
    """The same in a function outside of the class."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 6) or (N, M, 6)."""
        return F.linear(x, turned(x, self.weight))


class Renormed(nn.Linear):
    """A weight that each forward writes anew (the max-norm of EEGNet)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 6)."""
        self.weight.data = torch.renorm(self.weight.data, 2, 0, 0.2)
        return F.linear(x, self.weight, self.bias)


class Clamped(nn.Linear):
    """A weight that each forward changes in place."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 6)."""
        with torch.no_grad():
            self.weight.clamp_(-0.1, 0.1)
        return F.linear(x, self.weight, self.bias)


class Scaled(nn.Linear):
    """A product with a weight that is computed from its own."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 6)."""
        return F.linear(x, self.weight * 0.3, self.bias)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Styled(3, 4, 3), "takes more than one argument"),
        (ByShape(), "forward branches"),
        (Hidden(), "turned branches"),
        (Elsewhere(), "turned branches"),
        (Renormed(6, 6), "not nested"),
        (Clamped(6, 6), "not nested"),
        (prune.l1_unstructured(Scaled(6, 6), "weight", 0.5), "it is pruned"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_product_that_may_change_stays_dense(module: nn.Module, said: str) -> None:
    """A few calls cannot show every product of a forward; where another is possible, the module stays as it is."""
    net = nest(nn.ModuleDict({"own": module, "fc": nn.Linear(6, 3)}), densities=(0.3, 1.0))
    assert list(net.nested_layers()) == ["fc"]
    assert said in net.dense_layers()["own"]
    assert type(net.model["own"]) is type(module)  # type: ignore[index]
