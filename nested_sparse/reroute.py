"""Reroute: the accuracy of an inference whose level was lowered while it ran."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .argument import real, shown
from .errors import InputError, LevelError, NestedSparseError
from .excerpt import excerpt, excerpts


@dataclass(frozen=True, slots=True)
class Reroute:
    """Accuracy for each layer at which one level was lowered to another ("rerouting", arXiv:2112.10930).

    start: level at which the inference begins. end: lower level at which it continues.
    accuracy: name of a layer -> accuracy in [0, 1] where this layer and all layers after it run at `end`, with the
        normalisation of that level; in the order in which the layers run. Of the first layer that the model runs, it
        is the accuracy of a whole run at `end`, to compare the others with. A run may fall at the layers named here,
        and at the first one; no other.

    Raises LevelError, InputError.
    """

    start: int
    end: int
    accuracy: Mapping[str, float]

    def __post_init__(self) -> None:
        """Check all that can be checked without the model."""
        if not (_is_whole(self.start) and _is_whole(self.end) and 0 <= self.end < self.start):
            raise LevelError(
                f"a reroute goes down from start to end, got start {excerpt(repr(self.start))}, "
                f"end {excerpt(repr(self.end))}"
            )
        if not self.accuracy:
            raise InputError(f"{self._name()} names no layer")
        for layer, accuracy in self.accuracy.items():
            number = isinstance(accuracy, int | float) and not isinstance(accuracy, bool)
            if not number or not 0 <= accuracy <= 1:
                raise InputError(
                    f"{self._name()} at '{excerpt(layer)}': expected an accuracy in [0, 1], "
                    f"got {excerpt(repr(accuracy))}"
                )

    @staticmethod
    def of_hits(start: int, end: int, hits: Mapping[str, NDArray[np.bool_]], max_drop: float | None) -> Reroute:
        """The reroute of which every route was tried on the same n samples.

        hits: name of a layer -> (n,) whether each sample was answered right when the level fell at this layer; the
            first layer that the model runs comes first.
        max_drop: largest drop of accuracy against the first layer's, which is a whole run at `end`. A layer is left
            out where the drop plus two standard errors is above it. None keeps all layers.

        The standard error is that of the mean of paired differences, (right answer lost) - (right answer won), each
        -1, 0 or 1. One more difference than was seen is counted: samples without any difference prove little where
        they are few. With 2000 samples, of which 3 % differ, two standard errors are 0.8 points.
        """
        first, *rest = hits
        kept = [first, *(layer for layer in rest if max_drop is None or _drop(hits[first], hits[layer]) <= max_drop)]
        return Reroute(start, end, {layer: float(hits[layer].mean()) for layer in kept})

    def _name(self) -> str:
        return f"the reroute from level {self.start} to {self.end}"


def checked_drop(max_drop: float | None, error: type[NestedSparseError]) -> float | None:
    """`max_drop` of Reroute.of_hits: a share from 0 to below 1, or None. Raises `error` for anything else."""
    drop = None if max_drop is None else real("max_drop", max_drop, 0, error=error)
    if drop is not None and drop >= 1:
        raise error(f"max_drop: expected a share below 1 (one point of accuracy is 0.01), got {shown(max_drop)}")
    return drop


def check_reroutes(reroutes: Sequence[Reroute], level_count: int, layers: Collection[str]) -> None:
    """Check that levels and layers exist and that each pair of levels occurs once. Raises LevelError, InputError."""
    if isinstance(reroutes, str) or not isinstance(reroutes, Sequence):
        raise InputError(f"reroutes: expected what measure_reroutes returns, got {shown(reroutes)}")
    pairs = set()
    for reroute in reroutes:
        if not isinstance(reroute, Reroute):
            raise InputError(f"reroutes: expected what measure_reroutes returns, got {shown(reroute)} among them")
        pair = f"from level {reroute.start} to {reroute.end}"
        if reroute.start >= level_count:
            raise LevelError(f"a reroute {pair}: there are levels 0 to {level_count - 1}; measure this model's own")
        if pair in pairs:
            raise InputError(f"two reroutes {pair}; give each pair of levels once")
        unknown = sorted(reroute.accuracy.keys() - set(layers))
        if unknown:
            raise InputError(
                f"the reroute {pair} names layers that are none: {excerpts(unknown)}; measure this model's own"
            )
        pairs.add(pair)


def _drop(rest: NDArray[np.bool_], route: NDArray[np.bool_]) -> float:
    """The drop of accuracy from `rest` to `route`, plus two standard errors."""
    differing = np.count_nonzero(rest != route)
    return float(rest.mean() - route.mean()) + 2 * math.sqrt(differing + 1) / len(rest)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
