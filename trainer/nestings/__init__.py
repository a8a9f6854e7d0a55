"""Nestings: how levels come to share weights. One file each; `NESTINGS` names them all."""

from nested_sparse.trainer.nestings.freeze_then_grow import FreezeThenGrow
from nested_sparse.trainer.nestings.joint import Joint
from nested_sparse.trainer.nestings.joint_then_grow import JointThenGrow
from nested_sparse.trainer.nestings.nesting import Nesting

NESTINGS: dict[str, type] = {"freeze_then_grow": FreezeThenGrow, "joint": Joint, "joint_then_grow": JointThenGrow}

__all__ = ["NESTINGS", "FreezeThenGrow", "Joint", "JointThenGrow", "Nesting"]
