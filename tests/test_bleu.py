"""The tool bleu: greedy decoding."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from nested_sparse.trainer.data.translations import BEGIN, END, PAD

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def bleu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool, as a module."""
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("bleu")


class Copying:
    """A net that gives the source's word at each place, plus the level, if it was given the word before; else 9."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self, inputs: dict[str, np.ndarray], level: int) -> dict[str, np.ndarray]:
        self.runs += 1
        source, before = inputs["source"], inputs["target"]
        wanted = np.where(source > END, source + level, source)
        given = np.concatenate([np.full((len(source), 1), BEGIN), wanted[:, :-1]], 1)
        right = np.cumprod(before == given, 1).astype(bool)
        return {"output": np.eye(20, dtype=np.float32)[np.where(right, wanted, 9)]}


def test_each_word_is_chosen_behind_those_before_it(bleu: ModuleType) -> None:
    """By rows of unequal length; no run is made behind the last END."""
    source = np.array([[5, 6, END, PAD, PAD], [7, END, PAD, PAD, PAD]])
    net = Copying()
    found = bleu.translated(net, 1, source)
    assert found[0, :3].tolist() == [6, 7, END]
    assert found[1, :2].tolist() == [8, END]
    assert net.runs == 3


def test_a_sentence_without_an_end_is_cut(bleu: ModuleType) -> None:
    """At the length of the source's rows."""
    assert bleu.translated(Copying(), 0, np.array([[5, 6, 7]])).tolist() == [[5, 6, 7]]
