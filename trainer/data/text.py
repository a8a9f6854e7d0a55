"""Text: the bytes of a file, cut into windows, and the byte that follows each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nested_sparse.errors import TrainingError

from .files import contents
from .samples import Samples


def load_bytes(path: str | Path, length: int) -> Samples:
    """The bytes of a file, plain or gzipped, in windows that do not overlap; what is left at the end is dropped.

    Inputs are int64 (n, length), 0 to 255; labels, of the same shape, are the bytes one place further. So each byte of
    the text but the first is predicted once, from the bytes of its window before it. Raises TrainingError.
    """
    path = Path(path)
    text = np.frombuffer(contents(path), np.uint8).astype(np.int64)
    count = (len(text) - 1) // length
    if count < 1:
        raise TrainingError(f"{path}: expected at least {length + 1} bytes, a window and the next, got {len(text)}")
    windows, following = text[: count * length], text[1 : count * length + 1]
    return Samples(*(torch.from_numpy(each.reshape(count, length).copy()) for each in (windows, following)))
