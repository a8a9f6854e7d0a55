"""The time and the memory of each level and each layer on this device, measured once and kept."""

from __future__ import annotations

from .cached_profile import MOST_BATCH, profile_of
from .dense_times import DenseCheck
from .layer_costs import CostCheck, CostMeasurement, measure_costs
from .layer_profile import LayerTime, layer_of, layer_profile, node_events, read_profile
from .profile import LatencyProfile
from .profile_key import ProfileKey
from .profile_store import ProfileStore, default_folder
from .resident import measure_resident
from .thread_choice import choose_threads
from .turn import Profilable

__all__ = [
    "MOST_BATCH",
    "CostCheck",
    "CostMeasurement",
    "DenseCheck",
    "LatencyProfile",
    "LayerTime",
    "Profilable",
    "ProfileKey",
    "ProfileStore",
    "choose_threads",
    "default_folder",
    "layer_of",
    "layer_profile",
    "measure_costs",
    "measure_resident",
    "node_events",
    "profile_of",
    "read_profile",
]
