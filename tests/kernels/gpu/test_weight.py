"""GpuWeight: levels as prefixes of one set of arrays, and a level that changes costs nothing."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_case import DEVICE, GpuCase, gpu, torch

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # behind the batch's end


def test_the_blocks_of_a_level_are_a_prefix_of_each_group() -> None:
    """In order of the levels that add them; every block of the file is there once."""
    case = GpuCase(32, rows=70, columns=50)
    weight, levels = case.weight, case.packed()
    begin, end, col = (each.cpu().numpy() for each in (weight.begin, weight.end, weight.col))
    for group in range(case.groups):
        stops = [begin[group], *end[:, group]]
        for level, packed in enumerate(levels):
            mine = packed.col[packed.ptr[group] : packed.ptr[group + 1], 0]
            assert np.array_equal(col[stops[level] : stops[level + 1]], mine)
    assert len(col) - 256 == sum(len(level.col) for level in levels) == end[-1].sum() - begin.sum()
    assert not weight.val[-256:].any()


def test_a_level_on_the_device_is_read_when_the_kernel_starts() -> None:
    """One tensor, written between two runs; a value out of range is taken for the nearest level."""
    case = GpuCase(32, rows=32, columns=30)
    layer, x, level = (
        gpu.SparseLinear(case.weight),
        case.tensor(2, 30),
        torch.zeros((), dtype=torch.int32, device=DEVICE),
    )
    for value, ran in ((2, 2), (0, 0), (99, 2), (-5, 0)):
        level.fill_(value)
        case.assert_linear(layer(x, level), x, ran)


def test_a_change_of_level_makes_and_moves_nothing() -> None:
    """All levels read the same memory, and the number of a level is on the device before."""
    case = GpuCase(32, rows=32, columns=30)
    weight, x, out = case.weight, case.tensor(2, 30).t().contiguous().t(), torch.empty(2, 32, device=DEVICE)
    layer = gpu.SparseLinear(weight)
    held = [weight.col, weight.val, weight.begin, weight.end, weight.norm, weight.out_row, *weight.levels]
    before = [(each.data_ptr(), each._version) for each in held]
    for level in (0, 2, 1):
        layer(x, level, out=out)
        assert weight.level(level) is weight.levels[level]
    assert [(each.data_ptr(), each._version) for each in held] == before
    assert weight.nbytes == sum(each.numel() * each.element_size() for each in held)
