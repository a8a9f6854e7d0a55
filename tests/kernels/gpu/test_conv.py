"""SparseConv: windows, strides, padding, dilation, groups of channels, and layouts in memory."""

from __future__ import annotations

import numpy as np
import pytest
from layer_reference import correlate

from gpu_case import DEVICE, GpuCase, float64, gpu, torch
from nested_sparse.errors import InputError, PatternError

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # behind the batch's end

WINDOWS = {
    "1x1": gpu.Window(),
    "1x1 stride 2": gpu.Window(stride=(2, 2)),
    "3x3": gpu.Window((3, 3), pads=(1, 1, 1, 1)),
    "all different": gpu.Window((3, 2), (2, 1), (0, 1, 2, 3), (1, 2)),
}


def assert_conv(case: GpuCase, y: torch.Tensor, x: torch.Tensor, level: int, window: gpu.Window) -> None:
    """Check an output without residual, clamp or function against a convolution in float64."""
    named = {
        "kernel_shape": list(window.kernel), "strides": list(window.stride),
        "pads": list(window.pads), "dilations": list(window.dilation),
    }  # fmt: skip
    parts, of_rows = np.split(float64(x), case.channel_groups, 1), np.split(case.dense(level), case.channel_groups)
    pairs = list(zip(parts, of_rows, strict=True))
    sums = np.concatenate([correlate(part, rows, named) for part, rows in pairs], 1)
    sizes = np.concatenate([correlate(np.abs(part), np.abs(rows), named) for part, rows in pairs], 1)
    scale, shift = case.norms[level].astype(np.float64)[:, :, None, None]
    case.assert_close(y, sums * scale + shift, sizes * np.abs(scale))


@pytest.mark.parametrize("name", WINDOWS)
def test_every_window_is_the_convolution(name: str) -> None:
    """Two images of 5 x 7 pixels, the weight's rows no multiple of V, at the sparsest and the densest level."""
    window = WINDOWS[name]
    case = GpuCase(32, rows=39, columns=6 * window.kernel[0] * window.kernel[1])
    layer, x = gpu.SparseConv(case.weight, window), case.tensor(2, 6, 5, 7)
    for level in (0, 2):
        assert_conv(case, layer(x, level), x, level, window)


def test_wide_blocks_take_windows_too() -> None:
    """V = 64, whose product is the other way round, in bfloat16."""
    case = GpuCase(64, rows=70, columns=45, dtype=torch.bfloat16)
    x, window = case.tensor(1, 5, 4, 6), WINDOWS["3x3"]
    assert_conv(case, gpu.SparseConv(case.weight, window)(x, 1), x, 1, window)


def test_groups_of_channels_read_their_own_inputs() -> None:
    """Two groups; no block has rows of both."""
    case = GpuCase(32, rows=64, columns=27, channel_groups=2, permuted=False)
    x, window = case.tensor(1, 6, 4, 4), WINDOWS["3x3"]
    assert_conv(case, gpu.SparseConv(case.weight, window)(x, 2), x, 2, window)
    with pytest.raises(PatternError, match="groups of channels"):
        _ = GpuCase(64, rows=64, columns=27, channel_groups=2, permuted=False).weight


def test_a_residual_is_added_and_any_layout_is_read() -> None:
    """channels_last and cut images; the output lies over the residual."""
    case = GpuCase(32, rows=32, columns=6)
    layer = gpu.SparseConv(case.weight, gpu.Window(), gpu.Epilogue(clip_min=0.0))
    x, added = case.tensor(2, 6, 3, 4), case.tensor(2, 32, 3, 4)
    expected = torch.clamp(layer_without_clamp(case, x) + added.float(), 0)
    larger = torch.zeros(2, 6, 3, 9, dtype=x.dtype, device=DEVICE)
    larger[..., 2:6] = x
    for same in (x.to(memory_format=torch.channels_last), larger[..., 2:6]):
        y = layer(same, 1, residual=added, out=torch.full_like(expected, torch.nan))
        assert torch.allclose(y, expected, rtol=0, atol=1e-4)


def layer_without_clamp(case: GpuCase, x: torch.Tensor) -> torch.Tensor:
    """float32 outputs at level 1."""
    sums = np.einsum("oc,nchw->nohw", case.dense(1), float64(x))
    scale, shift = case.norms[1].astype(np.float64)[:, :, None, None]
    return torch.from_numpy(sums * scale + shift).float().to(DEVICE)


def test_wrong_windows_are_refused() -> None:
    """Sizes that cannot be, that do not fit the weight, and that do not fit the image."""
    case = GpuCase(32, rows=32, columns=10)
    with pytest.raises(InputError, match="1 or more"):
        gpu.Window(stride=(0, 1))
    with pytest.raises(InputError, match="10 columns"):
        gpu.SparseConv(case.weight, gpu.Window((3, 3)))
    layer = gpu.SparseConv(case.weight, gpu.Window((5, 1)))
    with pytest.raises(InputError, match="does not fit"):
        layer(case.tensor(1, 2, 4, 4), 0)
    with pytest.raises(InputError, match=r"x must be .*\[any, 2, any, any\]"):
        layer(case.tensor(1, 3, 5, 4), 0)
    with pytest.raises(InputError, match="equal distances"):
        layer(case.tensor(1, 2, 6, 3), 0, out=torch.empty(1, 32, 2, 4, device=DEVICE)[..., :3])
