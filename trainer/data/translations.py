"""Translations: sentences of two languages as numbers of words, from two files whose lines belong together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nested_sparse.errors import TrainingError

from ..tasks.task import IGNORED
from .files import contents
from .samples import Samples

PAD, BEGIN, END, UNKNOWN = range(4)
"""Numbers of marks: the filling of a row, the begin and the end of a sentence, a word that is not known."""
MARKS = 4
WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words that a model knows. A word's number is MARKS and its place in `words`."""

    words: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of words, and of marks."""
        return MARKS + len(self.words)

    @classmethod
    def of(cls, sentences: Sequence[str], size: int) -> Vocabulary:
        """The most frequent words of `sentences`, of equal ones the first by the alphabet; `size` with the marks."""
        counts = Counter(word for sentence in sentences for word in words_of(sentence))
        frequent = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(tuple(frequent[: size - MARKS]))

    def rows(self, sentences: Sequence[str], length: int) -> np.ndarray:
        """The numbers of each sentence and END, int64 (n, length), PAD behind it; a longer one is cut."""
        numbers = {word: MARKS + place for place, word in enumerate(self.words)}
        found = np.full((len(sentences), length), PAD, np.int64)
        for row, sentence in zip(found, sentences, strict=True):
            coded = [*(numbers.get(word, UNKNOWN) for word in words_of(sentence)), END][:length]
            row[: len(coded)] = coded
        return found

    def text(self, row: Sequence[int]) -> str:
        """The words of a row up to its END, with a space between; "?" for one that is not known."""
        texts = []
        for number in row:
            if number == END:
                break
            texts.append(self.words[number - MARKS] if number >= MARKS else "?")
        return " ".join(texts)


def words_of(sentence: str) -> list[str]:
    """Its words in small letters; each sign that is no letter, digit or space is a word."""
    return WORD.findall(sentence.lower())


def lines_of(path: Path) -> list[str]:
    """The lines of a file of UTF-8, plain or gzipped. Raises TrainingError."""
    try:
        text = contents(path).decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path}: is no text in UTF-8 ({error.reason} at byte {error.start})") from None
    lines = text.removesuffix("\n").split("\n")  # splitlines() also cuts at signs that may stand in a sentence
    if not text:
        raise TrainingError(f"{path}: expected a sentence on each line, got no line")
    return lines


def read_pairs(source: Path, target: Path) -> tuple[list[str], list[str]]:
    """The sentences of both files, whose lines belong together. Raises TrainingError."""
    both = lines_of(source), lines_of(target)
    if len(both[0]) != len(both[1]):
        raise TrainingError(
            f"{target}: has {len(both[1])} lines, {source} has {len(both[0])}; expected a translation of each line"
        )
    return both


def translations(
    pairs: tuple[Sequence[str], Sequence[str]], vocabularies: tuple[Vocabulary, Vocabulary], length: int
) -> Samples:
    """Inputs: the source and the target so far, int64 (n, length) each. Labels: the next word; -100 behind the END."""
    source, target = (
        vocabulary.rows(sentences, length) for vocabulary, sentences in zip(vocabularies, pairs, strict=True)
    )
    before = np.concatenate([np.full((len(target), 1), BEGIN), target[:, :-1]], 1)
    labels = np.where(target == PAD, IGNORED, target)
    return Samples((torch.from_numpy(source), torch.from_numpy(before)), torch.from_numpy(labels))
