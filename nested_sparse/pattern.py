"""Pattern: which weights of a layer are kept or dropped together."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .argument import shown
from .errors import PatternError
from .excerpt import excerpt

BLOCK_ROWS = (1, 2, 4, 8, 16)
"""Rows a block may have: what the kernels are built for."""

BANKS = (8, 16)
"""Weights a pack may have: what the kernels are built for."""


@dataclass(frozen=True, slots=True)
class Pack:
    """GS(B, k) of arXiv:2112.10898: `banks` weights, `per_row` of them in each of B / k consecutive packed rows.

    Their columns leave B different remainders modulo B, so that B memory banks answer one gather without conflict; and
    every row of a bundle (these B / k rows) keeps equally many weights.
    """

    banks: int
    per_row: int

    @property
    def rows(self) -> int:
        """B / k, the rows of a bundle."""
        return self.banks // self.per_row

    @property
    def name(self) -> str:
        """gs{B}x{k}."""
        return f"gs{self.banks}x{self.per_row}"


PACKS = tuple(Pack(banks, k) for banks in BANKS for k in range(1, banks + 1) if banks % k == 0)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A block of `block_rows` consecutive rows in one column is kept or dropped as one.

    One row (V = 1) is unstructured sparsity; V × 1 blocks are the vector-wise pattern of Shfl-BW, arXiv:2203.05016.
    pack: weights are single, and chosen in packs. channels: whole rows and whole input channels are kept or dropped.
    """

    name: str
    block_rows: int
    pack: Pack | None = None
    channels: bool = False

    @property
    def group_rows(self) -> int:
        """Rows that share a row pointer: V, or those of a bundle."""
        return self.block_rows if self.pack is None else self.pack.rows


def block_pattern(block_rows: int) -> Pattern:
    """The pattern of V × 1 blocks."""
    return Pattern("unstructured" if block_rows == 1 else f"block{block_rows}x1", block_rows)


PATTERNS = {
    pattern.name: pattern
    for pattern in (
        *map(block_pattern, BLOCK_ROWS),
        *(Pattern(pack.name, 1, pack=pack) for pack in PACKS),
        Pattern("channel", 1, channels=True),
    )
}


def parse_pattern(name: str) -> Pattern:
    """Pattern called `name`, one of PATTERNS. Raises PatternError."""
    if not isinstance(name, str):
        raise PatternError(
            f"pattern: expected the name of one, got {shown(name)}; choose one of: {', '.join(PATTERNS)}"
        )
    if name in PATTERNS:
        return PATTERNS[name]
    if re.fullmatch(r"gs\d+x\d+", name):
        raise PatternError(
            f"pattern '{excerpt(name)}' is not supported: in gs{{B}}x{{k}}, B must be one of {BANKS} and k a "
            "divisor of B"
        )
    raise PatternError(f"pattern '{excerpt(name)}' is not known; choose one of: {', '.join(PATTERNS)}")
