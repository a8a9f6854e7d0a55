"""Network: a network of the literature in two sizes, with inputs for any batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SEED = 0

Inputs = Callable[[int], tuple[Tensor, ...]]
"""A function of the batch size; the tensors that it returns have the batch as dimension 0."""

CONVOLUTIONS, PRODUCTS = "block4x1", "block16x1"
"""The patterns: of networks whose work is mostly convolutions, and of those whose work is mostly linear layers."""


@dataclass(frozen=True, slots=True)
class Size:
    """One size of a network: a function that makes the model with random weights, and its inputs."""

    make: Callable[[], nn.Module]
    inputs: Inputs

    def model(self) -> nn.Module:
        """The model in eval mode, with the same weights each time; torch's generator is left as it was.

        Batch norms have the statistics of a first batch. With those of a new norm, a deep network's answers depend on
        its last bias alone, and an error in it would not be seen.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            model = self.make().eval()
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        if norms:
            momenta = [norm.momentum for norm in norms]
            for norm in norms:
                norm.train().momentum = 1.0
            with torch.no_grad():
                model(*self.batch(2))
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.eval().momentum = momentum
        return model

    def batch(self, size: int) -> tuple[Tensor, ...]:
        """Inputs of `size` samples, the same each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return self.inputs(size)


@dataclass(frozen=True, slots=True)
class Network:
    """A network by its name in the literature.

    source: its paper or code, in a few words. pattern: the sparsity pattern that suits it. full: the size that is
    measured; shallow: fewer layers, most as wide as those of `full`.
    """

    name: str
    source: str
    pattern: str
    full: Size
    shallow: Size


def floats(*shape: int) -> Inputs:
    """Inputs of one tensor (N, *shape) of normal noise."""
    return lambda batch: (torch.randn(batch, *shape),)


def tokens(vocabulary: int, length: int) -> Inputs:
    """Inputs of one tensor (N, length) of int64 below `vocabulary`."""
    return lambda batch: (torch.randint(vocabulary, (batch, length)),)
