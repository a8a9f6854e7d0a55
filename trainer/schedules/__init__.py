"""Schedules: how a level's masks are found. One file each; `SCHEDULES` names them all."""

from nested_sparse.trainer.schedules.gap import Gap
from nested_sparse.trainer.schedules.gradual import Gradual
from nested_sparse.trainer.schedules.one_shot import OneShot
from nested_sparse.trainer.schedules.search import Schedule, Search

SCHEDULES: dict[str, type] = {"one_shot": OneShot, "gradual": Gradual, "gap": Gap}

__all__ = ["SCHEDULES", "Gap", "Gradual", "OneShot", "Schedule", "Search"]
