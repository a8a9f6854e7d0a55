"""Schedules: the methods that find a level's masks, one file each; `SCHEDULES` lists them by name."""

from .admm import Admm
from .chex import Chex
from .gap import Gap
from .gradual import Gradual
from .one_shot import OneShot
from .rigl import RigL
from .search import Schedule, Search

SCHEDULES: dict[str, type] = {
    "one_shot": OneShot,
    "gradual": Gradual,
    "gap": Gap,
    "admm": Admm,
    "chex": Chex,
    "rigl": RigL,
}

__all__ = ["SCHEDULES", "Admm", "Chex", "Gap", "Gradual", "OneShot", "RigL", "Schedule", "Search"]
