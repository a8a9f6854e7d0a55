"""Network: the whole network that a file is of, and what of it is the same at every level."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DenseModule:
    """A module that no level makes sparse. name: dotted path. flops: one sample's. why: it is dense, for people."""

    name: str
    flops: int
    weights: int
    why: str


@dataclass(frozen=True, slots=True)
class Network:
    """All that runs for one sample of the example shape, if every weight is kept.

    flops: 2 for each multiply-add of every matrix product and convolution. sparse_flops: those of layers of which
    levels drop weights. weights: parameters of two or more dimensions, and those of nested layers. dense: the rest, the
    largest by FLOPs first.
    """

    flops: int
    sparse_flops: int
    weights: int
    dense: tuple[DenseModule, ...] = ()

    @property
    def sparse_share(self) -> float:
        """Part of the FLOPs that is in sparse layers; 0 where nothing is multiplied."""
        return self.sparse_flops / self.flops if self.flops else 0.0


def count_text(count: float) -> str:
    """A count in three digits: "19.8 G", "640"."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {prefix}"
    return f"{count:.3g} "
