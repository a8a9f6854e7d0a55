"""Calibration: batches that no range can be chosen from are refused, and the error names the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nested_sparse.errors import ExportError
from nested_sparse.trainer import NestedModel, export, nest

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net() -> NestedModel:
    torch.manual_seed(0)
    return nest(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()), densities=(0.5, 1.0)).eval()


def used_up() -> Any:
    """A generator without a batch left."""
    batches = (batch for batch in [(X, None)])
    list(batches)
    return batches


UNUSABLE: dict[str, tuple[Any, str]] = {
    "none": ([], "expected at least one batch, got none"),
    "used up": (used_up(), "expected at least one batch, got none"),
    "no rows": ([(X[:0], None)], "batch 0: inputs.0. is empty"),
    "constant": ([(torch.full_like(X, 2), None)], "has the value 2 everywhere"),
    "NaN": ([(X, None), (torch.full_like(X, torch.nan), None)], "batch 1: input 'input' holds NaN or infinity"),
    "infinity": ([(torch.full_like(X, torch.inf), None)], "batch 0: input 'input' holds NaN or infinity"),
    "other channels": ([(X[:, :1], None)], "batch 0: input 'input': expected float32 of shape .*got float32"),
    "other rank": ([(X[:, 0], None)], "batch 0: input 'input': expected float32 of shape"),
    "dtype": ([(X.double(), None)], "expected float32 of shape .*, got float64"),
    "two inputs": ([((X, X), None)], "batch 0 holds 2 tensors, the model takes 1"),
    "no pairs": ([X], "expected each batch to be \\(inputs, targets\\), got a Tensor"),
    "a number": (3, "calibration: expected batches"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_unusable_batches(net: NestedModel, kind: str, tmp_path: Path) -> None:
    """Each is an ExportError that says what was expected, and no file is written."""
    calibration, message = UNUSABLE[kind]
    with pytest.raises(ExportError, match=message):
        export(
            net,
            (X[:2],),
            tmp_path / "net.safetensors",
            values="int8",
            calibration=calibration,
            calibration_samples=64,
            verify=False,
        )
    assert not list(tmp_path.iterdir())


def test_no_more_batches_are_read_than_needed(net: NestedModel, tmp_path: Path) -> None:
    """Reading stops with the batch that completes the samples."""
    read: list[Tensor] = []

    def batches() -> Any:
        for _ in range(5):
            read.append(X)
            yield X, None

    path = tmp_path / "net.safetensors"
    export(net, (X[:2],), path, values="int8", calibration=batches(), calibration_samples=6, verify=False)
    assert len(read) == 2
