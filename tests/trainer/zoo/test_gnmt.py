"""GNMT: its depth, and what its outputs depend on."""

from __future__ import annotations

import pytest
import torch

from nested_sparse.trainer.zoo import GNMT


def test_the_source_counts() -> None:
    """At the least depth, too; fewer layers would not see it, and are refused."""
    net = GNMT(width=8, depth=2, classes=10).eval()
    target = torch.tensor([[1, 4, 5]])
    one, other = (net(torch.tensor([source]), target) for source in ([4, 5, 2], [6, 7, 2]))
    assert not torch.equal(one, other)
    with pytest.raises(ValueError, match=r"depth: expected at least 2.*got 1"):
        GNMT(width=8, depth=1, classes=10)
