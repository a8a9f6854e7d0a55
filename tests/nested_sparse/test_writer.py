"""Writer: values that no checkpoint may have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nested_sparse.errors import CheckpointError
from support import layer_record, random_weight, write_layers


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("weights", "has weights that are not finite; train it again"),
        ("norms", "at level 1 a scale or bias, .* samples"),
    ],
)
def test_values_that_are_not_finite_are_not_written(part: str, said: str, tmp_path: Path) -> None:
    """The error says which: scales may come from samples, and nothing was trained then."""
    rng = np.random.default_rng(0)
    record = layer_record(rng, random_weight(rng, "first", 10, 12), 3)
    if part == "weights":
        record.weight.values[:] = np.nan
    else:
        record.norms[1, 0, 3] = np.nan
    with pytest.raises(CheckpointError, match=said):
        write_layers(tmp_path / "model.safetensors", [record])
