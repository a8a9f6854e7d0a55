"""BLEU: the score of a translation file at each level, decoded greedily, one JSON line a level.

    python tools/bleu.py multi30k-translator runs/multi30k-translator.safetensors --set data.train_source=…
    python tools/bleu.py docs/results/multi30k-translator.toml --keep ../kept

Settings are those of the training: the vocabularies come from its files. Of a study (tools/study.py) each kept
checkpoint of a finished run is scored, and its BLEU is stored in the run's line; --data, --keep and --out are those of
`study.py run`, and lines that have it are skipped. BLEU is sacrebleu's (extra [translation]), of
words in small letters, each sign a word, on both sides. It is comparable with itself, not with figures of other cuts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nested_sparse.options import Problems, checked_options
from nested_sparse.runtime import Session
from nested_sparse.trainer.data.datasets import Translations
from nested_sparse.trainer.data.translations import BEGIN, END, PAD, Vocabulary, read_pairs, words_of
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


@dataclass(frozen=True)
class Sentences:
    """Test sentences. rows: their words, int64 (n, length). references: their translations, in words. target: those."""

    rows: np.ndarray
    references: list[str]
    target: Vocabulary

    @classmethod
    def of(cls, recipe_name: str, settings: list[str], samples: int) -> Sentences:
        """The first `samples` test sentences of the recipe with these settings; 0: all."""
        table = dict(load_recipe(recipe_name, settings).tables["data"])
        table.pop("name")
        data = Translations(**checked_options("data", table, Translations, Problems()))  # the recipe's were checked
        known_source, known_target = data.vocabularies(read_pairs(data.train_source, data.train_target))
        source, target = (each[: samples or None] for each in read_pairs(data.test_source, data.test_target))
        references = [" ".join(words_of(each)) for each in target]
        return cls(known_source.rows(source, data.length), references, known_target)


def scores(path: Path, sentences: Sentences) -> list[dict[str, Any]]:
    """BLEU in percent and time of each level of the file."""
    try:
        import sacrebleu
    except ModuleNotFoundError:
        raise SystemExit("BLEU is computed by sacrebleu: pip install 'nested-sparse[translation]'") from None

    found, rows = [], sentences.rows
    with Session(path, threads=1) as session:
        for level in session.levels:
            begun_s, texts = time.perf_counter(), []
            for begin in range(0, len(rows), BATCH):
                decoded = translated(session, level.index, rows[begin : begin + BATCH])
                texts += [sentences.target.text(row) for row in decoded]
            bleu = sacrebleu.corpus_bleu(texts, [sentences.references], tokenize="none")
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


def score_study(path: Path, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The lines of each finished run of the study that has a checkpoint and no BLEU, which is stored in its line."""
    from study import Study  # needs Python 3.11

    study = Study(path)
    for (name, seed), run in study.runs().items():
        checkpoint = study.checkpoint(name, seed, asked) if name in study.named else None
        if checkpoint is None or all("bleu" in level for level in run["levels"]):
            continue
        row = study.named[name]
        found = scores(checkpoint, Sentences.of(row.recipe, study.of_data(row, asked.data), asked.samples))
        for level, line in zip(run["levels"], found, strict=True):
            level["bleu"] = line["bleu"]
        study.rewrite(name, seed, run)
        yield from ({"row": name, "seed": seed, **line} for line in found)


def main() -> None:
    """As the module's docstring says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a recipe, or a study's file")
    parser.add_argument("checkpoint", type=Path, nargs="*", help="files of the recipe; of a study, none")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="TABLE.KEY=VALUE")
    parser.add_argument("--samples", type=int, default=0, help="test sentences; 0: all")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="of a study: folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("build/study"), help="of a study: folder of the runs")
    parser.add_argument("--keep", type=Path, help="of a study: folder of the copies of checkpoints")
    asked = parser.parse_args()
    if asked.checkpoint:
        sentences = Sentences.of(asked.recipe, asked.settings, asked.samples)
        lines = ({"file": str(path), **line} for path in asked.checkpoint for line in scores(path, sentences))
    else:
        lines = score_study(Path(asked.recipe), asked)
    for line in lines:
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
