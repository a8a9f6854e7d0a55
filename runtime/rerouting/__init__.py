"""Lowering the level in the middle of an inference, so that the inference still meets its deadline."""

from __future__ import annotations

from .guard import RouteGuard
from .rule import RuledRun, RunTerms
from .scores import route_scores
from .table import RouteTable

__all__ = [
    "RouteGuard",
    "RouteTable",
    "RuledRun",
    "RunTerms",
    "route_scores",
]
