"""Examples: the checkpoint in docs/examples opens, runs, and has the accuracy that it states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.runtime import Session
from nested_sparse.trainer import load_idx

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "examples" / "fashion-mnist.safetensors"
FASHION_MNIST = ROOT.parent / "shared" / "data" / "fashion_mnist"


def test_the_example_is_whole_small_and_has_the_figures_of_its_card() -> None:
    """Nesting and digests hold, four levels of rising accuracy, at most 2 MB; the card has the same figures."""
    with Checkpoint.open(EXAMPLE) as checkpoint:
        levels = checkpoint.levels
    accuracies = [level.metrics["accuracy"] for level in levels]
    assert len(levels) == 4
    assert accuracies == sorted(accuracies)
    assert EXAMPLE.stat().st_size <= 2_000_000
    card = EXAMPLE.with_suffix(".md").read_text(encoding="utf-8")
    for level in levels:
        assert f"| {level.index} | {level.density:.1%}".replace("%", " %") in card
        assert f"{level.metrics['accuracy']:.2%}".replace("%", " %") in card


@pytest.mark.skipif(not FASHION_MNIST.exists(), reason="Fashion-MNIST is not beside the checkout, in ../shared/data")
def test_the_example_reaches_its_stated_accuracy() -> None:
    """Every level's accuracy on the test images is that of the file, to a few images that rounding may turn."""
    _, test = load_idx(FASHION_MNIST)
    labels = test.labels.numpy()
    with Session(EXAMPLE, threads=1) as session:
        for level in session.levels:
            batches = np.split(test.images.numpy(), 20)
            answers = [session.run({"input": batch}, level.index)["output"].argmax(axis=1) for batch in batches]
            accuracy = float((np.concatenate(answers) == labels).mean())
            assert accuracy == pytest.approx(level.metrics["accuracy"], abs=5e-4)
