"""Points: clouds of points in space, with two measurements at each, as a radar sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nested_sparse.errors import TrainingError

from .files import check_array, read_arrays
from .samples import Samples

PARTS = ("train", "test")
METRES = 1 / 512
"""The unit of a coordinate, in metres."""
DOPPLER_UNIT, INTENSITY_UNIT = 1 / 8, 1 / 64
"""Factors that bring Doppler bins and the intensity, in eighths of a decibel, into a range like that of metres."""


def load_radhar(path: str | Path) -> tuple[Samples, Samples]:
    """Training and test clouds of the .npz file `path`, which has RadHAR's (Singh et al., mmNets 2019) clouds.

    The file's arrays, for each part (train, test): xyz_part int16 (n, points, 3), in 1/512 m; doppler_part whole
    numbers (n, points), in bins; intensity_part whole numbers (n, points), in eighths of a decibel; y_part (n,).
    Inputs are float32 (n, 5, points): x, y, z in metres, z and the intensity with their mean over the cloud removed,
    Doppler and intensity scaled to a range like that of metres. Labels are int64 (n,). Raises TrainingError.
    """
    path = Path(path)
    arrays = read_arrays(path, [f"{name}_{part}" for part in PARTS for name in ("xyz", "doppler", "intensity", "y")])
    for part in PARTS:
        _check(path, part, arrays)
    sizes = {part: arrays[f"xyz_{part}"].shape[1] for part in PARTS}
    if len(set(sizes.values())) > 1:
        raise TrainingError(f"{path}: the clouds of train have {sizes['train']} points, those of test {sizes['test']}")
    train, test = (_clouds(part, arrays) for part in PARTS)
    return train, test


def _clouds(part: str, arrays: dict[str, NDArray[Any]]) -> Samples:
    xyz = arrays[f"xyz_{part}"].astype(np.float32) * np.float32(METRES)
    doppler = arrays[f"doppler_{part}"].astype(np.float32) * np.float32(DOPPLER_UNIT)
    intensity = arrays[f"intensity_{part}"].astype(np.float32) * np.float32(INTENSITY_UNIT)
    values = np.concatenate([xyz, doppler[..., None], intensity[..., None]], axis=-1)
    # The radar stands at another height in each recording, and sees another gain: neither tells the activity.
    values[..., [2, 4]] -= values[..., [2, 4]].mean(axis=1, keepdims=True)
    labels = torch.from_numpy(arrays[f"y_{part}"].astype(np.int64))
    return Samples(torch.from_numpy(np.ascontiguousarray(values.transpose(0, 2, 1))), labels)


def _check(path: Path, part: str, arrays: dict[str, NDArray[Any]]) -> None:
    xyz = arrays[f"xyz_{part}"]
    if xyz.ndim != 3 or xyz.shape[2] != 3 or xyz.dtype.kind not in "iu" or not xyz.size:
        raise TrainingError(
            f"{path}: xyz_{part}: expected whole numbers of shape (n, points, 3), got {xyz.dtype} {xyz.shape}"
        )
    for name in ("doppler", "intensity"):
        check_array(path, f"{name}_{part}", arrays[f"{name}_{part}"], "iu", xyz.shape[:2])
    labels = arrays[f"y_{part}"]
    check_array(path, f"y_{part}", labels, "iu", (len(xyz),))
    if int(labels.min()) < 0:
        raise TrainingError(f"{path}: y_{part}: expected classes from 0, got {int(labels.min())}")
