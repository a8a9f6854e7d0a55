"""Translations: vocabularies, rows, and the next words that are to be predicted."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from nested_sparse.errors import TrainingError
from nested_sparse.trainer.data.datasets import Translations
from nested_sparse.trainer.data.translations import BEGIN, END, MARKS, PAD, UNKNOWN, Vocabulary, read_pairs, words_of
from nested_sparse.trainer.tasks.task import IGNORED


def test_a_vocabulary_has_the_most_frequent_words() -> None:
    """Small letters, signs apart; of equally frequent words the first by the alphabet."""
    assert words_of("Ein Hund, der läuft!") == ["ein", "hund", ",", "der", "läuft", "!"]
    known = Vocabulary.of(["B a", "a c b", "a d."], MARKS + 3)
    assert known.words == ("a", "b", ".")
    assert known.size == MARKS + 3
    rows = known.rows(["a b zebra", "b a a a a"], 4)
    assert rows.tolist() == [[MARKS, MARKS + 1, UNKNOWN, END], [MARKS + 1, MARKS, MARKS, MARKS]]
    assert known.rows(["a"], 4).tolist() == [[MARKS, END, PAD, PAD]]
    assert [known.text(row) for row in rows.tolist()] == ["a b ?", "b a a a"]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Two pairs of files, one of them gzipped."""
    (tmp_path / "en.gz").write_bytes(gzip.compress(b"a dog\na cat runs\n"))
    (tmp_path / "de").write_text("ein hund\neine katze läuft\n", encoding="utf-8")
    return {
        "train_source": tmp_path / "en.gz",
        "train_target": tmp_path / "de",
        "test_source": tmp_path / "en.gz",
        "test_target": tmp_path / "de",
    }


def test_only_ends_of_lines_part_sentences(files: dict[str, Path]) -> None:
    """Other signs that end a line in Unicode may stand in one file alone; Windows' ends of lines are ends."""
    files["train_target"].write_bytes("ein\u2028hund\r\neine katze\x85läuft".encode())
    assert read_pairs(files["train_source"], files["train_target"])[1] == ["ein\u2028hund", "eine katze\x85läuft"]


def test_targets_are_the_words_behind_those_given(files: dict[str, Path]) -> None:
    """One further, with the END, and nothing behind it; batches are pairs of inputs."""
    settings = Translations(**files, vocabulary=20, length=5, batch_size=2)
    data = settings.load(0)
    assert data.facts["classes"] == 20
    ((source, before), labels) = next(iter(data.scored()))
    assert source.shape == before.shape == labels.shape == (2, 5)
    english, german = settings.vocabularies(read_pairs(files["train_source"], files["train_target"]))
    assert [english.text(row) for row in source.tolist()] == ["a dog", "a cat runs"]
    assert before[:, 0].tolist() == [BEGIN, BEGIN]
    for given, wanted, text in zip(before.tolist(), labels.tolist(), ("ein hund", "eine katze läuft"), strict=True):
        counted = [each for each in wanted if each != IGNORED]
        assert counted[-1] == END
        assert german.text(counted) == text
        assert given[1 : len(counted)] == counted[:-1]
    (inputs, targets), *_ = data.batches(0)
    assert [each.shape for each in inputs] == [(2, 5), (2, 5)]
    assert targets.shape == (2, 5)


def test_files_that_do_not_fit_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    """Unequal numbers of lines, no lines, no UTF-8: the message names the file."""
    (tmp_path / "short").write_text("ein hund\n", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"short: has 1 lines, .*en.gz has 2"):
        read_pairs(files["train_source"], tmp_path / "short")
    (tmp_path / "none").write_bytes(b"")
    with pytest.raises(TrainingError, match="none: expected a sentence"):
        read_pairs(tmp_path / "none", files["train_target"])
    (tmp_path / "latin").write_bytes("läuft\n".encode("latin-1"))
    with pytest.raises(TrainingError, match="latin: is no text in UTF-8"):
        read_pairs(tmp_path / "latin", files["train_target"])
    with pytest.raises(TrainingError, match="length"):
        Translations(**files, length=1)
