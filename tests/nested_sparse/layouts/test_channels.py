"""Channel pruning: compared with its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.errors import PatternError
from nested_sparse.layouts import Channels
from nested_sparse.layouts.channels import TOLERANCE, channel_first_level
from nested_sparse.mask import NEVER
from nested_sparse.packing import pack
from nested_sparse.weight import NestedWeight


@given(
    rows=st.integers(1, 40),
    channels=st.integers(1, 20),
    taps=st.sampled_from([1, 4, 9]),
    step=st.sampled_from([4, 16]),
    densities=st.lists(st.floats(0.02, 1.0), min_size=1, max_size=4, unique=True),
    seed=st.integers(0, 1000),
)
def test_whole_rows_meet_whole_channels(
    rows: int, channels: int, taps: int, step: int, densities: list[float], seed: int
) -> None:
    """Each level is a set of rows times a set of channels, the largest by L1, and contains the one below."""
    values = np.random.default_rng(seed).standard_normal((rows, channels * taps)).astype(np.float32)
    first_level = channel_first_level(np.abs(values, dtype=np.float64), taps, sorted(densities), step)
    magnitudes = np.abs(values).reshape(rows, channels, taps).sum(axis=2, dtype=np.float64)
    for level in range(len(densities)):
        kept = (first_level <= level).reshape(rows, channels, taps)
        kept_rows, kept_channels = kept.any(axis=(1, 2)), kept.any(axis=(0, 2))
        assert (kept == (kept_rows[:, None] & kept_channels)[:, :, None]).all()
        assert kept_rows.all() or kept_rows.sum() % step == 0
        for scores, chosen in ((magnitudes.sum(axis=1), kept_rows), (magnitudes.sum(axis=0), kept_channels)):
            assert chosen.all() or scores[chosen].min() >= scores[~chosen].max()


@given(rows=st.integers(1, 64), channels=st.integers(1, 64), density=st.floats(0.02, 1.0))
def test_the_product_of_the_shares_is_the_density(rows: int, channels: int, density: float) -> None:
    """Within the tolerance, or no other pair of counts comes nearer; balanced where there are many to choose from."""
    values = np.random.default_rng(rows).standard_normal((rows, channels)).astype(np.float32)
    kept = channel_first_level(np.abs(values).astype(np.float64), 1, [density], 4) == 0
    row_counts = [min(rows, 4 * groups) for groups in range(1, -(-rows // 4) + 1)]
    nearest = min(abs(r * c / (rows * channels) - density) for r in row_counts for c in range(1, channels + 1))
    assert abs(kept.mean() - density) <= max(nearest, TOLERANCE * density) + 1e-12
    large = channel_first_level(np.ones((256, 256)), 1, [density], 4) == 0
    shares = large.any(axis=1).mean(), large.any(axis=0).mean()
    assert max(shares) / min(shares) <= 1.1 or density < 0.05


@pytest.mark.parametrize("rows", [5, 16, 30])
def test_blocks_are_full_and_dropped_rows_have_none(rows: int) -> None:
    """Packed, every stored value belongs to its level, but for rows of padding: nothing is multiplied in vain."""
    values = np.random.default_rng(2).standard_normal((rows, 36)).astype(np.float32)
    first_level = channel_first_level(np.abs(values).astype(np.float64), 9, (0.2, 0.5, 0.9), 4)
    single = NestedWeight("w", values, first_level, Channels(4))
    layout, cells, order = single.layout.stored(first_level, None, "w")
    blocks = NestedWeight("w", values, cells, layout, order)
    padding = -rows % 4
    for level, added in enumerate(pack(blocks, 3)):
        assert np.array_equal(blocks.mask(level), single.mask(level))
        assert np.array_equal(blocks.at(level), single.at(level))
        stored_padding = padding * int((blocks.first_level[-1] == level).sum())
        assert added.val.size - stored_padding == (first_level == level).sum()


def test_rows_that_differ_inside_a_block_are_refused() -> None:
    """Masks of another pattern do not become blocks silently."""
    first_level = np.full((8, 4), NEVER, np.uint8)
    first_level[0, 1] = first_level[1, 2] = 0
    with pytest.raises(PatternError, match="'w': rows do not come in blocks of 4"):
        Channels(4).stored(first_level, None, "w")
