"""Schedules: how a level's masks are found. One file each; `SCHEDULES` names them all."""

from nested_sparse.trainer.schedules.admm import Admm
from nested_sparse.trainer.schedules.chex import Chex
from nested_sparse.trainer.schedules.gap import Gap
from nested_sparse.trainer.schedules.gradual import Gradual
from nested_sparse.trainer.schedules.one_shot import OneShot
from nested_sparse.trainer.schedules.rigl import RigL
from nested_sparse.trainer.schedules.search import Schedule, Search

SCHEDULES: dict[str, type] = {
    "one_shot": OneShot,
    "gradual": Gradual,
    "gap": Gap,
    "admm": Admm,
    "chex": Chex,
    "rigl": RigL,
}

__all__ = ["SCHEDULES", "Admm", "Chex", "Gap", "Gradual", "OneShot", "RigL", "Schedule", "Search"]
