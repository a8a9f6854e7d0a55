"""Layouts: the patterns of weights that a level keeps or drops together, one file and one class for each kind."""

from __future__ import annotations

from ..argument import shown
from ..errors import PatternError
from ..excerpt import excerpt
from ..value_type import FLOAT32, ValueType
from .base import Layout
from .blocks import BLOCK_ROWS, Blocks
from .channels import Channels
from .gather_scatter import BANKS, GatherScatter
from .quads import Quads

__all__ = [
    "BANKS",
    "BLOCK_ROWS",
    "KINDS",
    "PATTERNS",
    "Blocks",
    "Channels",
    "GatherScatter",
    "Layout",
    "Quads",
    "parse_pattern",
    "stored_layout",
]

KINDS: tuple[type[Layout], ...] = (Blocks, GatherScatter, Channels)
"""All kinds of patterns: to add one, write its file and name its class here."""

PATTERNS = {layout.name: layout for kind in KINDS for layout in kind.every()}


def parse_pattern(name: str) -> Layout:
    """The layout of the pattern called `name`, one of PATTERNS. Raises PatternError."""
    if not isinstance(name, str):
        raise PatternError(
            f"pattern: expected the name of one, got {shown(name)}; choose one of: {', '.join(PATTERNS)}"
        )
    if name in PATTERNS:
        return PATTERNS[name]
    advice = next(filter(None, (kind.advice(name) for kind in KINDS)), "")
    raise PatternError(advice or f"pattern '{excerpt(name)}' is not known; choose one of: {', '.join(PATTERNS)}")


def stored_layout(pattern: str, block_rows: int, value_type: ValueType = FLOAT32) -> Layout:
    """The layout of a stored layer, from three entries of its metadata. Raises PatternError."""
    layout = parse_pattern(pattern).stored_in(block_rows)
    return Quads(layout.block_rows) if value_type.scaled else layout
