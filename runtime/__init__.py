"""How a nested model adapts: session, latency profile, slowdown, level policy, scheduler, resource monitor."""

from __future__ import annotations

from .detection import Detections, detections, object_masks
from .generation import Generator, Token, generate
from .joining import RowCheck, check_rows, mark_rows
from .policy import Decision, ElasticPolicy, FixedPolicy, LevelPolicy, Residuals, Slowdown, Waiting
from .profiling import LatencyProfile, LayerTime, ProfileStore, layer_profile
from .rerouting import RouteGuard, RouteTable
from .resources import ResourceMonitor, ResourceSample, default_probes, usable_cores
from .scheduling import Request, Response, Scheduler, SchedulerStats
from .session import LevelCell, Session

__all__ = [
    "Decision",
    "Detections",
    "ElasticPolicy",
    "FixedPolicy",
    "Generator",
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
    "Token",
    "Waiting",
    "check_rows",
    "default_probes",
    "detections",
    "generate",
    "layer_profile",
    "mark_rows",
    "object_masks",
    "usable_cores",
]
