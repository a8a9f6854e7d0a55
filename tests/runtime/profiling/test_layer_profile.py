"""Layer profile: it names the kernel that ran."""

from __future__ import annotations

from pathlib import Path

import torch

from nested_sparse.kernels import library
from nested_sparse.runtime.profiling.layer_profile import layer_profile
from nested_sparse.trainer import export, nest


def test_depthwise_layers_are_weighed(tmp_path: Path) -> None:
    """A whole depthwise layer is multiplied as it lies; its neighbours and one of a single tap by block kernels."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv1d(8, 16, 3, padding=1),
        torch.nn.Conv1d(16, 16, 3, groups=16, padding=1),
        torch.nn.Conv1d(16, 16, 1, groups=16),
        torch.nn.Conv1d(16, 8, 1),
    ).eval()
    net = nest(model, densities=(0.3, 0.6), pattern="block4x1")
    path = export(net, (torch.randn(2, 8, 50),), tmp_path / "line.safetensors")
    ran = {layer.layer: layer.kernel for layer in layer_profile(path, repeats=1, threads=1)}
    blocks, single = library.kernel_for("conv", 4), library.kernel_for("conv", 1)
    assert ran == {"0": blocks, "1": f"weigh_{library.isa()}", "2": single, "3": blocks}
