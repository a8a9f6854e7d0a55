"""Virtual time: the real scheduler and policies on traces, under contention, against an offline oracle."""

from __future__ import annotations

from .comparison import (
    FIXED,
    LOAD,
    ORACLE,
    PolicyFactory,
    PolicyRow,
    compare,
    default_contentions,
    default_policies,
    default_traces,
    fixed_misses_at,
    misses_of_fixed,
)
from .contention import Contention, RateContention
from .hand_overs import HandOvers
from .oracle import OracleBound, oracle
from .outcome import SimulatedOutcome, Summary, summarise
from .play import Simulation, play, simulate
from .traces import Trace, arrivals_of, gamma, poisson, ramp
from .virtual_clock import VirtualClock
from .virtual_guard import VirtualGuard
from .virtual_session import VirtualSession
from .world import World

__all__ = [
    "FIXED",
    "LOAD",
    "ORACLE",
    "Contention",
    "HandOvers",
    "OracleBound",
    "PolicyFactory",
    "PolicyRow",
    "RateContention",
    "SimulatedOutcome",
    "Simulation",
    "Summary",
    "Trace",
    "VirtualClock",
    "VirtualGuard",
    "VirtualSession",
    "World",
    "arrivals_of",
    "compare",
    "default_contentions",
    "default_policies",
    "default_traces",
    "fixed_misses_at",
    "gamma",
    "misses_of_fixed",
    "oracle",
    "play",
    "poisson",
    "ramp",
    "simulate",
    "summarise",
]
