"""Small images: image files that several tests of the trainer share."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np


def idx_bytes(array: np.ndarray) -> bytes:
    """The content of an IDX file of `array`, uint8."""
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write `array`, uint8, as an IDX file."""
    path.write_bytes(idx_bytes(array))
