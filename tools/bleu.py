"""BLEU: the score of a translation file at each level, decoded greedily, one JSON line a level.

    python tools/bleu.py multi30k-translator runs/multi30k-translator.safetensors --set data.train_source=…

Settings are those of the training: the vocabularies come from its files. BLEU is sacrebleu's (extra [translation]), of
words in small letters, each sign a word, on both sides. It is comparable with itself, not with figures of other cuts.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nested_sparse.runtime import Session
from nested_sparse.trainer.data.datasets import Translations
from nested_sparse.trainer.data.translations import BEGIN, END, PAD, read_pairs, words_of
from nested_sparse.trainer.recipes.recipe import load_recipe

BATCH = 50


class Runs(Protocol):
    """The part of a Session that is used."""

    def run(self, inputs: dict[str, np.ndarray], level: int) -> dict[str, np.ndarray]:
        """Logits (n, length, classes) of `source` and `target`."""


def translated(session: Runs, level: int, source: np.ndarray) -> np.ndarray:
    """The likeliest words of each row, int64 (n, length) as `source`: a run for each word of all rows.

    Words behind the present one have no influence on it, so the file needs one length only.
    """
    rows, length = source.shape
    before = np.full((rows, length), PAD, np.int64)
    before[:, 0] = BEGIN
    found = np.full((rows, length), PAD, np.int64)
    for place in range(length):
        (logits,) = session.run({"source": source, "target": before}, level).values()
        found[:, place] = logits[:, place].argmax(-1)
        if place + 1 < length:
            before[:, place + 1] = found[:, place]
        if (found == END).any(1).all():
            break
    return found


def scores(recipe_name: str, path: Path, settings: list[str], samples: int) -> list[dict[str, Any]]:
    """BLEU in percent and time of each level of the file, on the first `samples` test sentences; 0: on all."""
    try:
        import sacrebleu
    except ModuleNotFoundError:
        raise SystemExit("BLEU is computed by sacrebleu: pip install 'nested-sparse[translation]'") from None

    table = dict(load_recipe(recipe_name, settings).tables["data"])
    table.pop("name")
    data = Translations(**{key: Path(value) if isinstance(value, str) else value for key, value in table.items()})
    known_source, known_target = data.vocabularies(read_pairs(data.train_source, data.train_target))
    source, target = (each[: samples or None] for each in read_pairs(data.test_source, data.test_target))
    references, rows = [" ".join(words_of(each)) for each in target], known_source.rows(source, data.length)
    found = []
    with Session(path, threads=1) as session:
        for level in session.levels:
            begun_s, texts = time.perf_counter(), []
            for begin in range(0, len(rows), BATCH):
                decoded = translated(session, level.index, rows[begin : begin + BATCH])
                texts += [known_target.text(row) for row in decoded]
            bleu = sacrebleu.corpus_bleu(texts, [references], tokenize="none")
            seconds = time.perf_counter() - begun_s
            found.append(
                {
                    "level": level.index,
                    "density": level.density,
                    "bleu": bleu.score,
                    "sentences": len(rows),
                    "seconds": seconds,
                    "example": texts[0],
                }
            )
    return found


def main() -> None:
    """As the module's docstring says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="TABLE.KEY=VALUE")
    parser.add_argument("--samples", type=int, default=0, help="test sentences; 0: all")
    asked = parser.parse_args()
    for line in scores(asked.recipe, asked.checkpoint, asked.settings, asked.samples):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
