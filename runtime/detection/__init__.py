"""The objects of an image with their masks, each of them once, from a detector's output."""

from __future__ import annotations

from .detections import Detections, detections
from .masks import object_masks

__all__ = [
    "Detections",
    "detections",
    "object_masks",
]
