"""Network: the figures of the whole network of a file, and of its modules that are the same at every level."""

from __future__ import annotations

from dataclasses import dataclass

MEASURED = "dense by measurement"
"""The beginning of the reason of a layer that a device runs faster with its dense weight."""


@dataclass(frozen=True, slots=True)
class DenseModule:
    """A module that no level makes sparse.

    name: dotted path. flops: FLOPs for one sample. weights: number of weights. why: reason in words.
    """

    name: str
    flops: int
    weights: int
    why: str


@dataclass(frozen=True, slots=True)
class Network:
    """Figures for one sample of the example shape, with every weight kept.

    flops: 2 for each multiply-add of every matrix product and convolution.
    sparse_flops: the part of `flops` in layers from which levels drop weights.
    weights: number of weights, in parameters of two or more dimensions and in nested layers.
    dense: the other modules, those with most FLOPs first.
    """

    flops: int
    sparse_flops: int
    weights: int
    dense: tuple[DenseModule, ...] = ()

    @property
    def sparse_share(self) -> float:
        """Share of the FLOPs that is in sparse layers; 0 where there are no FLOPs."""
        return self.sparse_flops / self.flops if self.flops else 0.0


def count_text(count: float) -> str:
    """A count in three digits, to be followed by its unit: "19.8 G" for 19.8 GFLOP, "640 " for 640 FLOP."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {prefix}"
    return f"{count:.3g} "
