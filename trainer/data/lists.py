"""Lists: documents with relevances, a list for each query, padded to equal length."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nested_sparse.errors import TrainingError

from ..tasks.ranking import ABSENT, MOST_RELEVANT
from .files import check_array, read_arrays
from .samples import Samples

PARTS = ("train", "test")


def load_lists(path: str | Path) -> tuple[Samples, Samples]:
    """Training and test lists of the .npz file `path`.

    The file's arrays, for each part (train, test): X_part float32 (rows, features), a row for each document; y_part
    whole numbers (rows,), its relevance from 0; qptr_part (n + 1,), begin and end of each query's rows.
    Inputs are documents float32 (n, longest, features), with zeros behind a list's end, and present float32
    (n, longest), 1 where there is a document. Labels are relevances int64 (n, longest), -1 where there is none. The
    longest list of both parts sets the length. Raises TrainingError.
    """
    path = Path(path)
    arrays = read_arrays(path, [f"{name}_{part}" for part in PARTS for name in ("X", "y", "qptr")])
    for part in PARTS:
        _check(path, part, arrays)
    features = {part: arrays[f"X_{part}"].shape[1] for part in PARTS}
    if len(set(features.values())) > 1:
        raise TrainingError(f"{path}: X_train has {features['train']} features, X_test {features['test']}")
    longest = max(int(np.diff(arrays[f"qptr_{part}"].astype(np.int64)).max()) for part in PARTS)
    train, test = (_padded(arrays[f"X_{part}"], arrays[f"y_{part}"], arrays[f"qptr_{part}"], longest) for part in PARTS)
    return train, test


def _padded(rows: NDArray[Any], relevances: NDArray[Any], ends: NDArray[Any], longest: int) -> Samples:
    count = len(ends) - 1
    documents = np.zeros((count, longest, rows.shape[1]), np.float32)
    labels = np.full((count, longest), ABSENT, np.int64)
    for index, (begin, end) in enumerate(pairwise(ends.tolist())):
        documents[index, : end - begin] = rows[begin:end]
        labels[index, : end - begin] = relevances[begin:end]
    present = (labels != ABSENT).astype(np.float32)
    return Samples((torch.from_numpy(documents), torch.from_numpy(present)), torch.from_numpy(labels))


def _check(path: Path, part: str, arrays: dict[str, NDArray[Any]]) -> None:
    rows, relevances, ends = (arrays[f"{name}_{part}"] for name in ("X", "y", "qptr"))
    if rows.ndim != 2 or rows.dtype.kind != "f" or not rows.size:
        raise TrainingError(f"{path}: X_{part}: expected floats (rows, features), got {rows.dtype} {rows.shape}")
    check_array(path, f"y_{part}", relevances, "iu", (len(rows),))
    if not np.isfinite(rows).all() or relevances.min() < 0 or relevances.max() > MOST_RELEVANT:
        raise TrainingError(
            f"{path}: expected finite numbers in X_{part} and relevances from 0 to {MOST_RELEVANT} in y_{part}"
        )
    check_array(path, f"qptr_{part}", ends, "iu", (max(2, ends.size),))
    if ends[0] != 0 or ends[-1] != len(rows) or (np.diff(ends.astype(np.int64)) <= 0).any():
        raise TrainingError(f"{path}: qptr_{part}: expected to rise from 0 to {len(rows)}, the number of rows")
