"""InputNorm: the LayerNorm of a linear layer's inputs, which its node computes (FORMAT.md, "Norms of inputs")."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..excerpt import excerpt
from ..wire import WireError
from .contract import NORM_EPSILON, NORM_SCALE, NORM_SHIFT

ATTRIBUTES = (NORM_SCALE, NORM_SHIFT, NORM_EPSILON)


def has_input_norm(given: Mapping[str, Any]) -> bool:
    """Whether a node with these attributes normalises its inputs. Of a node that check_input_norm() has passed."""
    return NORM_SCALE in given


def check_input_norm(given: Mapping[str, Any], columns: int) -> None:
    """Raises WireError where a layer of so many inputs has a part of a norm, or one that does not fit.

    given: all attributes by name.
    """
    there = [name for name in ATTRIBUTES if name in given]
    if there and len(there) < len(ATTRIBUTES):
        raise WireError(f"has {there[0]} and not all of {', '.join(ATTRIBUTES)}")
    for name in there[:2]:
        if len(given[name]) != columns:
            raise WireError(f"has {len(given[name])} numbers in {name}, expected one for each of {columns} columns")
    if there and not (math.isfinite(given[NORM_EPSILON]) and given[NORM_EPSILON] >= 0.0):
        raise WireError(f"says {NORM_EPSILON} {excerpt(given[NORM_EPSILON])}, expected a finite number from 0 on")
