"""The level that a request runs at: predictions, and the policies that choose by them."""

from __future__ import annotations

from .base import LevelPolicy
from .decision import Decision, Waiting
from .elastic import ElasticPolicy
from .fixed import FixedPolicy
from .policies import DEFAULT_POLICY, ELASTIC, POLICIES, SLACKFIT, PolicyKind, Served, policy_named
from .residuals import Residuals
from .slackfit import SlackFitPolicy
from .slowdown import Slowdown
from .static import StaticPolicy

__all__ = [
    "DEFAULT_POLICY",
    "ELASTIC",
    "POLICIES",
    "SLACKFIT",
    "Decision",
    "ElasticPolicy",
    "FixedPolicy",
    "LevelPolicy",
    "PolicyKind",
    "Residuals",
    "Served",
    "SlackFitPolicy",
    "Slowdown",
    "StaticPolicy",
    "Waiting",
    "policy_named",
]
