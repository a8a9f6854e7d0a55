"""check_heads: whether the attributes of an attention node can say where heads lie in its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..excerpt import excerpt
from ..wire import WireError
from .contract import CAUSAL, HEADS_RANK, INPUT_AXES, INPUT_PLACE, MAX_PLACE, PACKED_RANK, Y_AXES


def check_heads(given: Mapping[str, Any]) -> None:
    """Raises WireError where axes, a place or `causal` are out of range.

    given: all attributes by name. Ranks and sizes come with a run: the operator checks axes and places against them.
    """
    for name in (*INPUT_AXES.values(), Y_AXES):
        axes, last = given[name], (HEADS_RANK if name == Y_AXES else PACKED_RANK) - 2
        if len(axes) != HEADS_RANK - 1 or len(set(axes)) != len(axes) or not all(0 <= axis <= last for axis in axes):
            raise WireError(
                f"says {name} {excerpt(axes, 60)}, expected three different axes from 0 to {last}: those of batch, "
                "head and position"
            )
    for name, last in (*((each, MAX_PLACE) for each in INPUT_PLACE.values()), (CAUSAL, 1)):
        if not 0 <= given.get(name, 0) <= last:
            raise WireError(f"says {name} {given[name]}, expected 0 to {last}")
