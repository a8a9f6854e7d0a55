"""Pattern: which weights of a layer are kept or dropped together."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nested_sparse.errors import PatternError

BLOCK_ROWS = (1, 2, 4, 8, 16)
"""Rows a block may have: what the kernels are built for."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A block of `block_rows` consecutive rows in one column is kept or dropped as one.

    One row (V = 1) is unstructured sparsity; V × 1 blocks are the vector-wise pattern of Shfl-BW, arXiv:2203.05016.
    """

    name: str
    block_rows: int


def parse_pattern(name: str) -> Pattern:
    """Pattern called `name`: "unstructured", "block2x1", "block4x1", "block8x1" or "block16x1". Raises PatternError."""
    if name == "unstructured":
        return Pattern(name, 1)
    match = re.fullmatch(r"block(\d+)x1", name)
    if match and int(match[1]) in BLOCK_ROWS[1:]:
        return Pattern(name, int(match[1]))
    allowed = ", ".join(["unstructured", *(f"block{rows}x1" for rows in BLOCK_ROWS[1:])])
    raise PatternError(f"pattern {name!r} is not known; choose one of: {allowed}")
