"""Costs: FLOPs and density of the whole network, compared with counts by hand, and reasons for dense parts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.trainer import export, nest
from nested_sparse.trainer.model.costs import counted_costs

DENSITIES = (0.25, 0.5)
SAMPLES = 2

GOLDEN = Path(__file__).parents[2] / "golden"


class OwnConv(nn.Conv3d):
    """It reads its weight beside the product, too, so no layer takes its place."""

    def forward(self, x: Tensor) -> Tensor:
        """As torch's, shifted."""
        return super().forward(x) + self.weight.mean()


class Video(nn.Module):
    """A network like C3D: nearly all of it is a convolution of three dimensions, here of a class of the user's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = OwnConv(2, 4, 3, padding=1), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2, 3, 5, 5) to (N, 8)."""
        return self.fc(self.conv(x).relu().mean((2, 3, 4)))


class Words(nn.Module):
    """A table, recurrent layers, both of torch's attentions, products of its own, and other convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.fc = nn.Embedding(11, 8), nn.Linear(8, 8)
        self.lstm = nn.LSTM(8, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.up, self.grouped = weight_norm(nn.ConvTranspose1d(8, 6, 3, groups=2)), nn.Conv1d(6, 6, 3, groups=3)
        self.out = nn.Linear(6, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, 5) to (N, 5, 8)."""
        x = self.fc(self.table(tokens))
        x = self.gru(self.lstm(x)[0])[0]
        x = self.encoder(self.attention(x, x, x)[0])
        x = torch.softmax(x @ x.mT, -1) @ x + F.scaled_dot_product_attention(x, x, x)
        return self.out(self.grouped(self.up(x.mT)).mT)


def words_flops() -> dict[str, int]:
    """FLOPs of one sample: 5 steps of 8 features, 2 for each multiply-add."""
    steps, width = 5, 8
    scores = steps * steps * width
    attention = 2 * scores  # queries by keys, then by values
    return {
        "": 2 * (2 * attention),
        "attention": 2 * attention,
        "encoder.self_attn": 2 * attention,
        "up": 2 * steps * 8 * 3 * 3,
    }


PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
WORDS_NESTED = {
    "fc": 2 * 5 * 64,
    **{f"{attention}.{part}": 2 * 5 * 64 for attention in ("attention", "encoder.self_attn") for part in PROJECTIONS},
    **{f"lstm.ih_l{layer}{way}": 2 * 5 * 16 * 8 for layer in range(2) for way in ("", "_reverse")},
    **{f"lstm.hh_l{layer}{way}": 2 * 5 * 16 * 4 for layer in range(2) for way in ("", "_reverse")},
    "gru.ih_l0": 2 * 5 * 24 * 8,
    "gru.hh_l0": 2 * 5 * 24 * 8,
    "encoder.linear1": 2 * 5 * 96,
    "encoder.linear2": 2 * 5 * 96,
    "grouped": 2 * 5 * 6 * 2 * 3,
    "out": 2 * 5 * 6 * 8,
}


@pytest.mark.parametrize("no_gradients", [torch.no_grad, torch.inference_mode])
def test_every_product_counts(no_gradients: Callable[[], torch.no_grad]) -> None:
    """Multiply-adds by module equal those by hand; nested layers count with all weights at any level."""
    net = nest(Words().eval(), densities=DENSITIES)
    for level in range(2):
        net.set_level(level)
        with no_gradients(), counted_costs(net) as costs:
            net(torch.randint(11, (SAMPLES, 5)))
        assert {name: flops // SAMPLES for name, flops in costs.layers.items()} == WORDS_NESTED
        assert {name: flops // SAMPLES for name, flops in costs.others.items()} == words_flops()
        assert costs.total == SAMPLES * (sum(WORDS_NESTED.values()) + sum(words_flops().values()))
    assert torch.backends.mha.get_fastpath_enabled()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_vectors_count_too() -> None:
    """A linear layer on one vector multiplies as on a row."""
    net = nest(nn.Linear(6, 4), densities=DENSITIES)
    with torch.no_grad(), counted_costs(net) as costs:
        net(torch.randn(6))
    assert costs.total == 2 * 24


def test_density_is_of_the_whole_network() -> None:
    """It contains every parameter of two or more dimensions once; a parametrized weight counts as one."""
    net = nest(Words(), densities=DENSITIES)
    other = {
        "table": 11 * 8,
        "up": 8 * 3 * 3,
    }
    nested = net.nested_layers().values()
    whole = sum(layer.weight.numel() for layer in nested) + sum(other.values())
    for level in range(2):
        kept = sum(int(layer.mask(level).sum()) for layer in nested) + sum(other.values())
        assert net.density(level) == kept / whole
    listed = net.dense_layers()
    assert [name for name in listed if "up" in name] == ["up"]
    assert "2 groups" in listed["up"]


def test_the_file_says_what_it_costs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Levels have the density and FLOPs of the whole network; dense parts are listed, largest first, and logged."""
    net = nest(Video(), densities=DENSITIES)
    path = export(net, (torch.randn(SAMPLES, 2, 3, 5, 5),), tmp_path / "net.safetensors")
    conv, weights = 4 * 2 * 27, 4 * 2 * 27 + 32
    conv_flops = 2 * conv * 75
    with Checkpoint.open(path) as file:
        for level, entry in enumerate(file.levels):
            kept = int(net.nested_layers()["fc"].mask(level).sum())
            assert entry.flops == conv_flops + 2 * kept
            assert entry.density == (conv + kept) / weights
            assert net.density(level) == entry.density
        network = file.metadata.network
    assert network is not None
    assert (network.flops, network.sparse_flops, network.weights) == (conv_flops + 64, 64, weights)
    assert [(module.name, module.flops, module.weights) for module in network.dense] == [("conv", conv_flops, conv)]
    assert "OwnConv is not nested" in network.dense[0].why
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [
        text for text in warned if "only 0% of the network's 32.5 kFLOP" in text and "conv, 32.4 kFLOP: OwnConv" in text
    ]
    assert [text for text in warned if "network's 248 weights" in text]  # nest, which was given no inputs


def test_a_network_that_is_sparse_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The share is still logged; `nest` counts FLOPs if it has inputs."""
    caplog.set_level(logging.INFO)
    x = torch.randn(1, 2, 6, 6)
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    net = nest(model, densities=DENSITIES, keep_dense=("3",), example_inputs=(x,))
    export(net, (x,), tmp_path / "net.safetensors")
    ours = [record for record in caplog.records if record.name.startswith("nested_sparse.trainer")]
    assert [record.levelno for record in ours] == [logging.INFO] * 2
    sparse, dense = 2 * 16 * 8 * 18, 2 * 16 * 8 * 4
    assert all(f"{sparse / (sparse + dense):.0%} of the network's 5.63 kFLOP" in record.getMessage() for record in ours)


def test_files_without_it_open(tmp_path: Path) -> None:
    """Older files have no such entry; the network's costs are then unknown."""
    path = GOLDEN / "v1-before-totals.safetensors"
    with Checkpoint.open(path) as file:
        assert file.metadata.network is None
