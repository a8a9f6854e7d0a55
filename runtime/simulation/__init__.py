"""Virtual time: the real scheduler and policies on traces, under contention, against an oracle that knows the future."""

from __future__ import annotations

from nested_sparse.runtime.simulation.contention import Contention, RateContention
from nested_sparse.runtime.simulation.outcome import Outcome, Summary, summarise
from nested_sparse.runtime.simulation.play import Simulation, play, simulate
from nested_sparse.runtime.simulation.traces import Trace
from nested_sparse.runtime.simulation.virtual_clock import VirtualClock
from nested_sparse.runtime.simulation.virtual_guard import VirtualGuard
from nested_sparse.runtime.simulation.virtual_session import VirtualSession
from nested_sparse.runtime.simulation.world import World

__all__ = [
    "Contention",
    "Outcome",
    "RateContention",
    "Simulation",
    "Summary",
    "Trace",
    "VirtualClock",
    "VirtualGuard",
    "VirtualSession",
    "World",
    "play",
    "simulate",
    "summarise",
]
