"""Server figures: those of its front, of its levels under load, its start and its size."""

from __future__ import annotations
