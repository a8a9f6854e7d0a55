"""The objects of an image, each of them once, from a detector's output."""

from __future__ import annotations

from .detections import Detections, detections

__all__ = [
    "Detections",
    "detections",
]
