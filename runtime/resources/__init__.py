"""The resources of the device: its sensors, and the levels that their readings allow."""

from __future__ import annotations

from .cpu_model import cpu_model
from .governor import Governor
from .limits import LevelLimit, LimitConfig
from .monitor import ResourceMonitor, ResourceSample
from .probes import ROOT, cgroup_folders, default_probes, memory, usable_cores
from .quota import CpuQuota, QuotaReading

__all__ = [
    "ROOT",
    "CpuQuota",
    "Governor",
    "LevelLimit",
    "LimitConfig",
    "QuotaReading",
    "ResourceMonitor",
    "ResourceSample",
    "cgroup_folders",
    "cpu_model",
    "default_probes",
    "memory",
    "usable_cores",
]
