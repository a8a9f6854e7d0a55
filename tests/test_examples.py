"""Examples: the checkpoints in docs/examples open, run, and have the accuracy that they state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.quantization import row_scales
from nested_sparse.runtime import Session
from nested_sparse.trainer import load_idx

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.safetensors"))
FLOAT32, INT8 = (ROOT / "docs" / "examples" / f"fashion-mnist{kind}.safetensors" for kind in ("", "-int8"))
FASHION_MNIST = ROOT.parent / "shared" / "data" / "fashion_mnist"


def test_both_examples_are_there() -> None:
    assert {FLOAT32, INT8} <= set(EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_whole_small_and_has_the_figures_of_its_card(example: Path) -> None:
    """Nesting and digests hold, four levels of rising accuracy, at most 2 MB; the card has the same figures."""
    with Checkpoint.open(example) as checkpoint:
        levels = checkpoint.levels
    accuracies = [level.metrics["accuracy"] for level in levels]
    assert len(levels) == 4
    assert accuracies == sorted(accuracies)
    assert example.stat().st_size <= 2_000_000
    card = example.with_suffix(".md").read_text(encoding="utf-8")
    for level in levels:
        assert f"| {level.index} | {level.density:.1%}".replace("%", " %") in card
        assert f"{level.metrics['accuracy']:.2%}".replace("%", " %") in card


def test_the_int8_example_holds_the_weights_of_the_other_one() -> None:
    """Rounded to its rows' scales, at every level; in less than half of the bytes; and it loses 0.3 points at most."""
    with Checkpoint.open(FLOAT32) as exact, Checkpoint.open(INT8) as rounded:
        assert [layer.name for layer in rounded.layers] == [layer.name for layer in exact.layers]
        for layer in rounded.layers:
            assert layer.value_type.name == "int8"
            (weight, _), (held, _) = (each.load_layer(layer.name) for each in (exact, rounded))
            scales = row_scales(weight)[:, None]
            for level in range(len(exact.levels)):
                assert np.abs(held.at(level) - weight.at(level)).max() <= 0.5001 * scales.max()
                assert not held.at(level)[weight.at(level) == 0].any()
        for before, after in zip(exact.levels, rounded.levels, strict=True):
            assert after.metrics["accuracy"] >= before.metrics["accuracy"] - 0.003
    assert INT8.stat().st_size < 0.5 * FLOAT32.stat().st_size


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.skipif(not FASHION_MNIST.exists(), reason="Fashion-MNIST is not beside the checkout, in ../shared/data")
def test_an_example_reaches_its_stated_accuracy(example: Path) -> None:
    """Every level's accuracy on the test images is that of the file, to a few images that rounding may turn."""
    _, test = load_idx(FASHION_MNIST)
    labels = test.labels.numpy()
    with Session(example, threads=1) as session:
        for level in session.levels:
            batches = np.split(test.images.numpy(), 20)
            answers = [session.run({"input": batch}, level.index)["output"].argmax(axis=1) for batch in batches]
            accuracy = float((np.concatenate(answers) == labels).mean())
            assert accuracy == pytest.approx(level.metrics["accuracy"], abs=5e-4)
