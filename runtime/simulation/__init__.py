"""Virtual time: the real scheduler and policies on traces, under contention, against an offline oracle."""

from __future__ import annotations

from .contention import Contention, RateContention
from .oracle import OracleBound, oracle
from .outcome import Outcome, Summary, summarise
from .play import Simulation, play, simulate
from .traces import Trace
from .virtual_clock import VirtualClock
from .virtual_guard import VirtualGuard
from .virtual_session import VirtualSession
from .world import World

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
