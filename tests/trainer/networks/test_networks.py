"""Networks: each one's forward, and that its weights and inputs are the same each time."""

from __future__ import annotations

import pytest
import torch

from nested_sparse.trainer.networks import NETWORKS


def answers(size, batch):
    with torch.inference_mode():
        answer = size.model()(*size.batch(batch))
    return answer if isinstance(answer, tuple) else (answer,)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_answers_alike_each_time(name):
    """Twice the same finite values, one for each sample, and different samples give different answers."""
    state = torch.random.get_rng_state()
    first, again = (answers(NETWORKS[name].shallow, 2) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    for once, twice in zip(first, again, strict=True):
        assert torch.equal(once, twice)
        assert once.isfinite().all()
        assert len(once) == 2
    assert any(not torch.equal(*each) for each in first)


def test_samples_do_not_depend_on_the_batch():
    """The benchmark compares a batch of one with the first answer of a larger batch."""
    for name in ("re-ranker", "gat", "llama-step", "dlrm"):
        size = NETWORKS[name].shallow
        model, examples = size.model(), size.batch(3)
        with torch.inference_mode():
            whole = model(*examples)
            alone = model(*(example[:1] for example in examples))
        for expected, got in zip(
            *(each if isinstance(each, tuple) else (each,) for each in (whole, alone)), strict=True
        ):
            torch.testing.assert_close(got, expected[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("densenet121", 7.98),
        ("efficientnet-b0", 5.29),
        ("mobilenet-v3-small", 2.54),
        ("yolov5s", 7.24),
        ("ds-cnn", 0.0226),
        ("autoencoder", 0.2700),
    ],
)
def test_networks_have_the_sizes_of_the_literature(name, millions):
    """Numbers of parameters as their papers and public code have them, within 3 %."""
    model = NETWORKS[name].full.model()
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)
