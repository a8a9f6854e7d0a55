"""Virtual time: the real scheduler and policies on traces, under contention, against an offline oracle."""

from __future__ import annotations

from nested_sparse.runtime.simulation.contention import Contention, RateContention
from nested_sparse.runtime.simulation.oracle import OracleBound, oracle
from nested_sparse.runtime.simulation.outcome import Outcome, Summary, summarise
from nested_sparse.runtime.simulation.play import Simulation, play, simulate
from nested_sparse.runtime.simulation.traces import Trace
from nested_sparse.runtime.simulation.virtual_clock import VirtualClock
from nested_sparse.runtime.simulation.virtual_guard import VirtualGuard
from nested_sparse.runtime.simulation.virtual_session import VirtualSession
from nested_sparse.runtime.simulation.world import World

__all__ = [
    "Contention",
    "OracleBound",
    "Outcome",
    "RateContention",
    "Simulation",
    "Summary",
    "Trace",
    "VirtualClock",
    "VirtualGuard",
    "VirtualSession",
    "World",
    "oracle",
    "play",
    "simulate",
    "summarise",
]
