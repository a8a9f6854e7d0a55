"""SparseLinear: every V, dtype and level, odd sizes, layouts in memory, and wrong arguments."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_case import DEVICE, GpuCase, float64, gpu, torch
from nested_sparse.errors import InputError, LevelError, PatternError

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # behind the batch's end


def poisoned(*shape: int) -> torch.Tensor:
    """A float32 output that shows an element that was not written."""
    return torch.full(shape, torch.nan, device=DEVICE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("block_rows", gpu.BLOCK_ROWS)
def test_every_level_is_the_product_with_its_weights(block_rows: int, dtype: torch.dtype) -> None:
    """The last group is partly padding, a group is empty at level 0, and K and N are multiples of nothing."""
    case = GpuCase(block_rows, rows=block_rows + 7, columns=77, dtype=dtype)
    layer, x = gpu.SparseLinear(case.weight), case.tensor(19, 77)
    for level in range(3):
        case.assert_linear(layer(x, level, out=poisoned(19, case.rows)), x, level)


def test_float32_is_exact_and_a_group_may_be_empty_at_every_level() -> None:
    """Also without a permutation, and with more columns than a step has."""
    case = GpuCase(32, rows=40, columns=150, dtype=torch.float32, permuted=False)
    case.place[1] = 1
    x = case.tensor(3, 150)
    y = gpu.SparseLinear(case.weight)(x, 2)
    case.assert_linear(y, x, 2)
    assert np.array_equal(float64(y)[:, 32:], np.tile(case.norms[2, 1, 32:].astype(np.float64), (3, 1)))


def test_outputs_lie_by_feature_and_the_next_layer_reads_them_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of two layers copies nothing but its first input, whatever the batch's shape."""
    first, second = GpuCase(32, rows=37, columns=24), GpuCase(32, rows=20, columns=37, seed=1)
    x = first.tensor(2, 5, 24)
    hidden = gpu.SparseLinear(first.weight)(x, 1)
    assert hidden.shape == (2, 5, 37)
    assert hidden.stride(2) == 16  # 10 vectors, rounded up to 16
    monkeypatch.setattr(torch.Tensor, "copy_", None)
    y = gpu.SparseLinear(second.weight)(hidden, 2)
    monkeypatch.undo()
    first.assert_linear(hidden, x, 1)
    second.assert_linear(y, hidden, 2)


def test_outputs_go_where_the_caller_says() -> None:
    """Row by row, within a larger tensor whose other elements stay; and over the residual."""
    case = GpuCase(32, rows=33, columns=20)
    layer, x = gpu.SparseLinear(case.weight), case.tensor(6, 20)
    whole = torch.full((8, 40), 7.0, device=DEVICE)
    y = layer(x, 1, out=whole[1:7, 2:35])
    assert y.data_ptr() == whole[1:7, 2:35].data_ptr()
    case.assert_linear(y, x, 1)
    around = torch.ones_like(whole, dtype=torch.bool)
    around[1:7, 2:35] = False
    assert (whole[around] == 7.0).all()
    added = case.tensor(6, 33)
    before = added.clone()
    case.assert_linear(layer(x, 2, residual=added, out=added), x, 2, before)
    by_feature = torch.empty(20, 16, dtype=x.dtype, device=DEVICE)[:, :6]
    by_feature.copy_(x.t())
    case.assert_linear(layer(by_feature.t(), 0, residual=before), x, 0, before)


def test_a_level_reads_only_the_inputs_that_it_keeps() -> None:
    """NaN in every other input changes nothing, also where a step reaches past the level's end."""
    case = GpuCase(32, rows=32, columns=60)
    x = case.tensor(4, 60)
    kept = torch.from_numpy(case.place[0] < case.densities[1]).to(DEVICE)
    clean = torch.where(kept, x, 0)
    layer = gpu.SparseLinear(case.weight)
    y = layer(torch.where(kept, x, torch.nan), 1)
    assert torch.equal(y, layer(clean, 1))
    assert layer(torch.full_like(x, torch.nan), 1).isnan().all()


def test_a_batch_may_be_empty() -> None:
    """No kernel runs."""
    case = GpuCase(32, rows=32, columns=8)
    assert gpu.SparseLinear(case.weight)(case.tensor(3, 0, 8), 0).shape == (3, 0, 32)


def test_wrong_tensors_are_refused() -> None:
    """Each with the sizes or types that were expected."""
    case = GpuCase(32, rows=32, columns=8)
    layer, x = gpu.SparseLinear(case.weight), case.tensor(3, 8)
    for wrong, said in (
        (case.tensor(3, 9), r"\[\.\.\., 8\]"),
        (x.float(), "float16"),
        (x.to(torch.bfloat16), "bfloat16"),
    ):
        with pytest.raises(InputError, match=said):
            layer(wrong, 0)
    with pytest.raises(InputError, match="residual must be"):
        layer(x, 0, residual=case.tensor(3, 8))
    with pytest.raises(InputError, match="out must be"):
        layer(x, 0, out=torch.zeros(3, 32, dtype=torch.int32, device=DEVICE))
    with pytest.raises(InputError, match="view of 6 lines"):
        layer(case.tensor(2, 3, 8), 0, out=torch.zeros(3, 2, 32, device=DEVICE).transpose(0, 1))
    for level in (-1, 3):
        with pytest.raises(LevelError, match="out of range 0 to 2"):
            layer(x, level)
    with pytest.raises(InputError, match="one int32"):
        layer(x, torch.tensor(1))


def test_wrong_weights_are_refused() -> None:
    """A V that tensor cores do not like, arrays that do not fit, and values too large for float16."""
    case = GpuCase(16, rows=32, columns=8)
    with pytest.raises(PatternError, match="block64x1"):
        _ = case.weight
    case = GpuCase(32, rows=40, columns=8)
    with pytest.raises(InputError, match="3 pointers"):
        gpu.GpuWeight.of(GpuCase(32, rows=90, columns=8).packed(), case.norms, 8, device=DEVICE)
    with pytest.raises(InputError, match="norms must be"):
        gpu.GpuWeight.of(case.packed()[:2], case.norms, 8, device=DEVICE)
    with pytest.raises(InputError, match="each of 0 to 39 once"):
        gpu.GpuWeight.of(case.packed(), case.norms, 8, permutation=np.zeros(40, np.int32), device=DEVICE)
    case.values *= 1e6
    with pytest.raises(InputError, match="bfloat16"):
        _ = case.weight
