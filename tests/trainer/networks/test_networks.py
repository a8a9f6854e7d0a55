"""Networks: each one's forward, and that its weights and inputs are the same each time."""

from __future__ import annotations

import pytest
import torch

from nested_sparse.trainer.networks import NETWORKS


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_answers_each_sample_alike(name):
    """Finite values, which differ between samples and do not depend on the batch, as the benchmark takes them."""
    size = NETWORKS[name].shallow
    model, examples = size.model(), size.batch(2)
    with torch.inference_mode():
        whole, alone = model(*examples), model(*(example[:1] for example in examples))
    pairs = list(zip(whole, alone, strict=True)) if isinstance(whole, tuple) else [(whole, alone)]
    for both, first in pairs:
        assert both.isfinite().all()
        assert (both[:1] - first).abs().max() <= 1e-4 * both.abs().max()
    assert any(not torch.equal(*both) for both, _ in pairs)


@pytest.mark.parametrize("name", ["deepspeech2", "gat", "pointnet2", "clip-text"])
def test_a_network_is_the_same_each_time(name):
    """Weights, buffers and inputs; torch's generator is left as it was."""
    size = NETWORKS[name].shallow
    state = torch.random.get_rng_state()
    first, again = ([*size.model().state_dict().values(), *size.batch(2)] for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("densenet121", 7.98),
        ("efficientnet-b0", 5.29),
        ("mobilenet-v3-small", 2.54),
        ("regnety-400mf", 4.34),
        ("yolov5s", 7.24),
        ("vit-small", 22.05),
        ("ds-cnn", 0.0226),
        ("autoencoder", 0.2700),
    ],
)
def test_networks_have_the_sizes_of_the_literature(name, millions):
    """Numbers of parameters as their papers and public code have them, within 3 %."""
    model = NETWORKS[name].full.model()
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)
