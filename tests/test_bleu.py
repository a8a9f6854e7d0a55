"""The tool bleu: greedy decoding."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
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


STUDY = """
title = "translations"
recipe = "multi30k-gnmt"
[data]
"data.train_source" = "train.en"
"data.train_target" = "train.de"
"data.test_source" = "test.en"
"data.test_target" = "test.de"
[settings]
"data.evaluate_on" = "test"
"data.length" = 4
[[row]]
name = "dense"
kind = "dense"
[[row]]
name = "ladder"
kind = "nested"
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tools/study.py reads TOML with Python 3.11's tomllib")
def test_a_study_s_kept_checkpoints_are_scored_once(
    bleu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the sentences of its data and settings; the score of each level is stored in its run's line alone."""
    for name, text in (("train.en", "a b\nb\n"), ("train.de", "x y\nY\n"), ("test.en", "B c\n"), ("test.de", "Y, z\n")):
        (tmp_path / name).write_text(text)
    study, results = tmp_path / "some.toml", tmp_path / "some.jsonl"
    study.write_text(STUDY)
    runs = [{"row": row, "seed": 0, "levels": [{"bits_per_word": 2.0}] * 2} for row in ("dense", "ladder")]
    results.write_text("".join(json.dumps(run) + "\n" for run in runs))
    kept = tmp_path / "kept" / "some" / "ladder-0.safetensors"
    kept.parent.mkdir(parents=True)
    kept.touch()
    asked = []

    def scores(path: Path, sentences: object) -> list[dict[str, float]]:
        asked.append((path, sentences))
        return [{"level": level, "bleu": 10.0 + level} for level in range(2)]

    monkeypatch.setattr(bleu, "scores", scores)
    given = argparse.Namespace(data=tmp_path, keep=tmp_path / "kept", out=tmp_path / "out", samples=0)
    printed = list(bleu.score_study(study, given))
    assert [(line["row"], line["seed"], line["bleu"]) for line in printed] == [("ladder", 0, 10.0), ("ladder", 0, 11.0)]
    ((path, sentences),) = asked
    assert path == kept
    assert sentences.rows.shape == (1, 4)
    assert sentences.references == ["y , z"]
    dense, ladder = (json.loads(line) for line in results.read_text().splitlines())
    assert dense == runs[0]
    assert [level["bleu"] for level in ladder["levels"]] == [10.0, 11.0]
    assert list(bleu.score_study(study, given)) == []
