"""OneDnn: nets with convolutions on which it fails train without it, and all others with it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from nested_sparse.trainer import nest
from nested_sparse.trainer.onednn import sound_gradients

TRAIN = """
import torch
from nested_sparse.trainer import TrainConfig, nest, train
from nested_sparse.trainer.zoo import DigitNet

torch.manual_seed(0)
torch.set_num_threads(1)
images, classes = torch.randn(48, 1, 8, 8), torch.randint(10, (48,))
net = nest(DigitNet(width=4), densities=(0.1, 0.4))
config = TrainConfig(dense_epochs=10, search_epochs=1)
reports = train(net, lambda epoch: [(images, classes)] * 4, torch.nn.functional.cross_entropy, config)
print(len(reports))
"""
"""Without the remedy, and without AVX-512, the process ends by a signal, as memory is overwritten."""


def test_a_net_with_a_narrow_shortcut_trains() -> None:
    done = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 10


FAILS = {
    "few channels": nn.Conv2d(7, 8, 1, 2),
    "one channel": nn.Conv2d(1, 64, 1, 3),
    "a stride in one dimension": nn.Conv2d(4, 8, 1, (1, 2)),
    "in a net": nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 8, 1, 2))),
}
WORKS = {
    "enough channels": nn.Conv2d(8, 4, 1, 2),
    "no stride": nn.Conv2d(3, 4, 1),
    "more than a pixel": nn.Conv2d(3, 4, (1, 3), 2),
    "transposed": nn.ConvTranspose2d(3, 4, 1, 2),
    "a line": nn.Conv1d(3, 4, 1, 2),
    "a pool": nn.Sequential(nn.MaxPool2d(1, 2), nn.Linear(3, 4)),
}


@pytest.mark.parametrize("name", [*FAILS, *WORKS])
@pytest.mark.parametrize("nested", [False, True])
def test_it_is_left_out_where_it_fails_and_comes_back(name: str, nested: bool) -> None:
    """Also of nested layers, and where the body raises."""
    net: nn.Module = {**FAILS, **WORKS}[name]
    if nested:
        net = nest(nn.Sequential(net), densities=(0.5,))
    before = torch.backends.mkldnn.enabled
    within = []

    def fails_in() -> None:
        with sound_gradients(net):
            within.append(torch.backends.mkldnn.enabled)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails_in()
    assert within == [before and name in WORKS]
    assert torch.backends.mkldnn.enabled == before
