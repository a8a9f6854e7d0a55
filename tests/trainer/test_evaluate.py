from __future__ import annotations

import pytest
import torch
from small_models import nested_small_net, small_batches

from nested_sparse.errors import TrainingError
from nested_sparse.trainer.evaluate import accuracy_per_level


def test_accuracy_is_counted_per_level() -> None:
    """Equal to counting each level's hits in eval mode, with level and mode as before."""
    net = nested_small_net().train()
    net.set_level(1)
    batches = list(small_batches()(0))
    got = accuracy_per_level(net, iter(batches))
    assert (net.level, net.training) == (1, True)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    net.eval()
    for level, accuracy in enumerate(got):
        net.set_level(level)
        assert accuracy == pytest.approx(float((net(images).argmax(1) == labels).double().mean()))


def test_no_sample_is_an_error() -> None:
    """An empty test set has no accuracy."""
    with pytest.raises(TrainingError, match="at least one sample"):
        accuracy_per_level(nested_small_net(), [])
