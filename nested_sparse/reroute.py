"""Reroute: the accuracy of an inference whose level was lowered while it ran."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from .argument import shown
from .errors import InputError, LevelError
from .excerpt import excerpt, excerpts


@dataclass(frozen=True, slots=True)
class Reroute:
    """Accuracy for each layer at which one level was lowered to another ("rerouting", arXiv:2112.10930).

    start: level at which the inference begins. end: lower level at which it continues.
    accuracy: name of a layer -> accuracy in [0, 1] where this layer and all layers after it run at `end`, with the
        normalisation of that level; in the order in which the layers run.

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

    def _name(self) -> str:
        return f"the reroute from level {self.start} to {self.end}"


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


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
