"""How a nested model adapts: session, latency profile, slowdown, level policy, scheduler, resource monitor."""

from __future__ import annotations

from nested_sparse.runtime.decision import Decision, Waiting
from nested_sparse.runtime.layer_profile import LayerTime, layer_profile
from nested_sparse.runtime.level_cell import LevelCell
from nested_sparse.runtime.monitor import ResourceMonitor, ResourceSample
from nested_sparse.runtime.policy_base import LevelPolicy
from nested_sparse.runtime.policy_elastic import ElasticPolicy
from nested_sparse.runtime.policy_fixed import FixedPolicy
from nested_sparse.runtime.probes import default_probes, usable_cores
from nested_sparse.runtime.profile import LatencyProfile
from nested_sparse.runtime.profile_store import ProfileStore
from nested_sparse.runtime.request import Request, Response
from nested_sparse.runtime.residuals import Residuals
from nested_sparse.runtime.route import RouteTable
from nested_sparse.runtime.route_guard import RouteGuard
from nested_sparse.runtime.row_check import RowCheck, check_rows, mark_rows
from nested_sparse.runtime.scheduler import Scheduler
from nested_sparse.runtime.session import Session
from nested_sparse.runtime.slowdown import Slowdown
from nested_sparse.runtime.stats import SchedulerStats

__all__ = [
    "Decision",
    "ElasticPolicy",
    "FixedPolicy",
    "LatencyProfile",
    "LayerTime",
    "LevelCell",
    "LevelPolicy",
    "ProfileStore",
    "Request",
    "Residuals",
    "ResourceMonitor",
    "ResourceSample",
    "Response",
    "RouteGuard",
    "RouteTable",
    "RowCheck",
    "Scheduler",
    "SchedulerStats",
    "Session",
    "Slowdown",
    "Waiting",
    "check_rows",
    "default_probes",
    "layer_profile",
    "mark_rows",
    "usable_cores",
]
