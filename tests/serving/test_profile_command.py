"""`nested-sparse profile`: one file, two files of one network in turns, and what it says of int8."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chain import counting_chain, small_chain
from nested_sparse.errors import InputError
from nested_sparse.serving import cli
from nested_sparse.serving.commands import profile

OPTIONS = ("--threads", "1", "--repeats", "2")


def run(*arguments: Any) -> str:
    """Stdout of a run that succeeds."""
    result = CliRunner().invoke(cli.app, ["profile", *map(str, arguments), *OPTIONS])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_one_file_has_no_other_beside_it(tmp_path: Path) -> None:
    """Levels and layers; nothing is said of int8 or of another file."""
    path = small_chain(tmp_path / "model.safetensors").path
    facts = json.loads(run(path, "--json"))
    assert [each["level"] for each in facts["latency"]] == [0, 1, 2]
    assert [each["layer"] for each in facts["layers"]] == ["first", "second", "third"]
    assert facts["against"] is facts["int8_isa"] is facts["latency"][0]["against_ms"] is None
    shown = run(path)
    assert "against" not in shown
    assert "int8" not in shown


def test_two_files_stand_beside_each_other(tmp_path: Path) -> None:
    """Each level and each layer of one name; the ratio is the one of the figures shown."""
    path = small_chain(tmp_path / "model.safetensors").path
    facts = json.loads(run(path, "--against", path, "--batch", "1", "--batch", "3", "--json"))
    assert facts["against"] == str(path)
    assert [(each["level"], each["batch"]) for each in facts["latency"]] == [(i, n) for i in range(3) for n in (1, 3)]
    assert all(each["against_ms"] > 0 for each in (*facts["latency"], *facts["layers"]))
    shown = run(path, "--against", path)
    assert "times as fast" in shown
    assert str(path) in shown


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        ([(1.0, 2.0), (2.0, 1.95)], "other is in no case faster by more than 5%"),
        ([(1.0, 0.5), (2.0, 3.0)], "other is faster on this device: level 0 at batch 1"),
        ([(1.0, 0.5), (2.0, 1.0)], "other is faster on this device: level 0 at batch 1, level 1 at batch 1"),
    ],
)
def test_the_faster_file_is_named(ms: list[tuple[float, float]], text: str) -> None:
    """Where it is faster by more than noise."""
    cases = [
        {"level": level, "batch": 1, "median_ms": ours, "against_ms": theirs} for level, (ours, theirs) in enumerate(ms)
    ]
    assert profile._verdict({"against": "other", "latency": cases}) == text


def test_files_of_different_networks_are_refused(tmp_path: Path) -> None:
    """Other inputs, or another number of levels."""
    first = small_chain(tmp_path / "first.safetensors").path
    for other, what in (
        (counting_chain(tmp_path / "levels.safetensors", 1, 24, levels=2).path, "levels 2, first"),
        (
            counting_chain(tmp_path / "inputs.safetensors", 1, 24, levels=3).path,
            r"outputs \[\('output', \(None, 24\)\)\]",
        ),
        (counting_chain(tmp_path / "wide.safetensors", 1, 30, levels=3).path, r"inputs \[\('input', \(None, 30\)\)\]"),
    ):
        with pytest.raises(InputError, match=what):
            profile.measure(first, -1, [1], 1, 1, other)


@pytest.mark.parametrize(("int8_isa", "said"), [(None, False), ("avx512vnni", False), ("avx512", True)])
def test_int8_without_dot_products_is_said(
    capsys: pytest.CaptureFixture[str], int8_isa: str | None, said: bool
) -> None:
    """Where no other file was measured, which would answer the question."""
    facts = {
        "file": "model",
        "against": None,
        "isa": "avx512",
        "int8_isa": int8_isa,
        "threads": 1,
        "repeats": 2,
        "latency": [
            {"level": 0, "density": 0.5, "batch": 1, "median_ms": 1.0, "p95_ms": 1.0, "against_ms": None},
        ],
        "layers_level": 0,
        "layers": [{"layer": "fc", "kernel": "k", "ms": 1.0, "against_ms": None}],
    }
    profile._print(facts)
    shown = capsys.readouterr().out
    assert ("int8 layers ran on avx512, without instructions for dot products of bytes" in shown) == said
    assert ("(int8: avx512vnni)" in shown) == (int8_isa == "avx512vnni")
