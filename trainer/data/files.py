"""Files of data sets, read: plain or gzipped bytes, and the arrays of .npz files."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import TrainingError
from nested_sparse.excerpt import excerpt


def contents(path: Path) -> bytes:
    """The bytes of a file, unpacked if its name ends in .gz. Raises TrainingError."""
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise TrainingError(f"{path}: cannot be read ({excerpt(error)}); fetch the file again") from error


def read_arrays(path: Path, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The `wanted` arrays of an .npz file. Raises TrainingError: it cannot be read, or lacks one of them."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in wanted if name not in archive]
            if missing:
                raise TrainingError(f"{path}: expected arrays {', '.join(wanted)}; lacks {', '.join(missing)}")
            return {name: archive[name] for name in wanted}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise TrainingError(f"{path}: is not a readable .npz file ({excerpt(error)}); fetch it again") from None


def check_array(path: Path, name: str, array: NDArray[Any], kinds: str, shape: tuple[int, ...]) -> None:
    """Raise TrainingError unless `array` has the `shape` and one of numpy's `kinds` of types, as "iu"."""
    if array.dtype.kind not in kinds or array.shape != shape:
        words = {"f": "floats", "b": "bools"}.get(kinds, "whole numbers")
        raise TrainingError(f"{path}: {name}: expected {words} of shape {shape}, got {array.dtype} {array.shape}")
