"""check_ranges: whether the scales, zero points, tables and margins of an int8 node are ones to compute with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..excerpt import excerpt
from ..quantization import is_scale
from ..wire import WireError
from .contract import (
    ACTIVATION_FORMS,
    ACTIVATIONS,
    MAX_MARGIN,
    SCALES,
    STATIC,
    SUM_SCALE,
    SUM_ZERO,
    TABLE,
    TABLE_NBYTES,
    X_SCALE,
    X_ZERO,
    Y_BORDER,
    Y_GAP,
    ZEROS,
)


def check_ranges(given: Mapping[str, Any], level_count: int) -> None:
    """Raises WireError where an attribute of a node is out of range, or does not go with the others.

    given: values by name; floats as float32 arrays. level_count: entries that each list must have.
    """
    for name in SCALES & given.keys():
        scales = given[name]
        if len(scales) != level_count or not is_scale(scales).all():
            raise WireError(
                f"says {name} {excerpt(scales.tolist(), 60)}, expected a finite number of at least 2^-126 for each of "
                f"{level_count} levels"
            )
    for name in ZEROS & given.keys():
        zeros = given[name]
        if len(zeros) != level_count or not all(0 <= zero <= np.iinfo(np.uint8).max for zero in zeros):
            raise WireError(f"says {name} {excerpt(zeros, 60)}, expected 0 to 255 for each of {level_count} levels")
    if TABLE in given and len(given[TABLE]) != TABLE_NBYTES * level_count:
        raise WireError(f"has a {TABLE} of {len(given[TABLE])} bytes, expected {TABLE_NBYTES * level_count}")
    for name in {Y_BORDER, Y_GAP} & given.keys():
        if not 0 <= given[name] <= MAX_MARGIN:
            raise WireError(f"says {name} {given[name]}, expected 0 to {MAX_MARGIN}")
    for names in ({TABLE, SUM_SCALE, SUM_ZERO}, {X_SCALE, X_ZERO}):
        if names & given.keys() not in (set(), names):
            raise WireError(f"has a node with {sorted(names & given.keys())} that needs all of {sorted(names)}")
    _check_activations(given)


def _check_activations(given: Mapping[str, Any]) -> None:
    form = given.get(ACTIVATIONS, b"").decode(errors="replace")
    if ACTIVATIONS in given and form not in ACTIVATION_FORMS:
        raise WireError(f"says {ACTIVATIONS} {excerpt(form, 60)!r}, expected one of {ACTIVATION_FORMS}")
    if (form == STATIC) != (X_SCALE in given):
        raise WireError(f"says {ACTIVATIONS} {excerpt(form, 60)!r}, and {X_SCALE} goes with {STATIC!r} only")
