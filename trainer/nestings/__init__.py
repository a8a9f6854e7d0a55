"""Nestings: the methods that train levels with shared weights, one file each; `NESTINGS` lists them by name."""

from .default import default_nesting
from .freeze_then_grow import FreezeThenGrow
from .interleaved import Interleaved
from .joint import Joint
from .joint_then_grow import JointThenGrow
from .nesting import Nesting

NESTINGS: dict[str, type] = {
    "freeze_then_grow": FreezeThenGrow,
    "interleaved": Interleaved,
    "joint": Joint,
    "joint_then_grow": JointThenGrow,
}

__all__ = ["NESTINGS", "FreezeThenGrow", "Interleaved", "Joint", "JointThenGrow", "Nesting", "default_nesting"]
