"""The level that a request runs at: predictions, and the policies that choose by them."""

from __future__ import annotations

from .base import LevelPolicy
from .decision import Decision, Waiting
from .elastic import ElasticPolicy
from .fixed import FixedPolicy
from .residuals import Residuals
from .slackfit import SlackFitPolicy
from .slowdown import Slowdown
from .static import StaticPolicy

__all__ = [
    "Decision",
    "ElasticPolicy",
    "FixedPolicy",
    "LevelPolicy",
    "Residuals",
    "SlackFitPolicy",
    "Slowdown",
    "StaticPolicy",
    "Waiting",
]
