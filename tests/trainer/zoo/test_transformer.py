"""TransformerBlock: its number of heads."""

from __future__ import annotations

import pytest

from nested_sparse.trainer.zoo import GPT


def test_heads_divide_the_width() -> None:
    """Of another number the error names both, before anything runs."""
    for heads in (6, 0):
        with pytest.raises(ValueError, match=f"heads: expected a divisor of width, 16, got {heads}"):
            GPT(width=16, depth=1, heads=heads)
