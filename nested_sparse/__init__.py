"""Nested multi-level sparse models: one checkpoint, several sparse levels, each a subset of the next denser one."""

from __future__ import annotations

from . import telemetry

__version__ = "0.1.0"

telemetry.switch_off()
