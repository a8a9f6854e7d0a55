"""Folding: a bound on the values that ONNX Runtime computes from constants alone while it loads a graph.

ONNX Runtime bounds neither the time of this nor, in older versions, its memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .operators import BRANCHES, LOOPS, SHAPE_OPERATORS, most_values

MAX_FOLDED_VALUES = 1 << 24
"""Values of all results of a graph that depend on constants alone."""


class Folding:
    """foldable: whether all results so far that depend on constants alone are cheap to compute."""

    def __init__(self) -> None:
        self.foldable = True
        self._folded = 0

    def most(
        self, operator: str, inputs: Sequence[int | None], attributes: Mapping[str, tuple[str, Any]]
    ) -> int | None:
        """The most values that an output of a node has if it is constant; None if it is not, or is not to be folded.

        inputs: the same of each input. attributes: (kind, value) by name; the value of a tensor is the number of
        its values, that of a graph the most values of each of its outputs.
        """
        if operator == "Constant":
            kind, value = next(iter(attributes.values()), ("", None))
            if kind in ("ints", "floats"):
                return len([] if value is None else value)
            return int(value or 0) if kind == "t" else 1
        constants = [each for each in inputs if each is not None]
        whole = len(constants) == len(inputs) and bool(inputs)
        if operator in BRANCHES and whole:  # ONNX Runtime puts the branch in the node's place
            branches = [most for kind, value in attributes.values() if kind == "g" for most in value or ()]
            return max((most for most in branches if most is not None), default=None)
        if operator in LOOPS | BRANCHES or not (whole or operator in SHAPE_OPERATORS):
            return None
        most = most_values(operator, constants)
        if most is None or self._folded + most > MAX_FOLDED_VALUES:
            self.foldable = False
            return None
        self._folded += most
        return most
