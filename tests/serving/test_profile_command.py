"""`nested-sparse profile`: one file, two files of one network in turns, and what it says of int8."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from chain import counting_chain, small_chain
from nested_sparse.device_costs import DeviceCosts
from nested_sparse.errors import BudgetError, InputError
from nested_sparse.runtime.profiling import DenseCheck
from nested_sparse.serving import cli
from nested_sparse.serving.commands import profile
from nested_sparse.serving.commands.costs import print_dense, profits

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
        "sizes": [],
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


def test_costs_are_written_and_checked(tmp_path: Path) -> None:
    """A file that `nest` reads, and the whole runs beside their predictions."""
    path, costs = small_chain(tmp_path / "model.safetensors").path, tmp_path / "costs.json"
    facts = json.loads(run(path, "--costs", costs, "--pattern", "unstructured", "--pattern", "block4x1", "--json"))
    read = DeviceCosts.read(costs)
    assert list(read.layers) == ["first", "second", "third"]
    assert all(list(layer.patterns) == ["unstructured", "block4x1"] for layer in read.layers.values())
    assert facts["other_ms"] == read.other_ms
    assert {each["pattern"] for each in facts["checks"]} == {"unstructured", "block4x1"}
    shown = run(path, "--costs", costs)  # an earlier file of costs is replaced
    assert "own" in shown
    assert "costs of 3 layers" in shown
    assert "plain network ms" in shown
    assert facts["dense_ms"] == read.dense_ms
    assert [each["density"] for each in facts["dense"]] == [0.05, 0.15, 0.35]
    assert facts["faster_than_dense"] in (True, False)
    assert list(DeviceCosts.read(costs).layers["first"].patterns) == ["block4x1"]
    assert facts["batch"] == 1
    assert "batch 3" in run(path, "--costs", costs, "--batch", "3")
    assert DeviceCosts.read(costs).batch == 3


def test_a_network_that_does_not_profit_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    """With both times; the better of its two forms counts, at the sparsest level."""
    slow, mended = DenseCheck(0.05, 0.031, 0.02, 0.012, ("fc",)), DenseCheck(0.05, 0.031, 0.01, 0.012, ("fc",))
    assert [profits(checks) for checks in ([slow], [mended], [])] == [False, True, None]
    print_dense([slow])
    said = " ".join(capsys.readouterr().out.split())
    assert "dense ONNX Runtime takes 0.012 ms, the level of 5% 0.02 ms; serve the plain model" in said
    assert "faster dense: fc; nest(" in said
    print_dense([mended])
    assert "does not profit" not in capsys.readouterr().out


def test_costs_replace_no_other_file(tmp_path: Path) -> None:
    """Such as the checkpoint, named twice by mistake."""
    path = small_chain(tmp_path / "model.safetensors").path
    before = path.read_bytes()
    result = CliRunner().invoke(cli.app, ["profile", str(path), "--costs", str(path), *OPTIONS])
    assert result.exit_code != 0
    assert isinstance(result.exception, BudgetError)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--costs", "c.json", "--batch", "2", "--level", "0"), "--level: not with --costs"),
        (("--costs", "c.json", "--batch", "1", "--batch", "8"), "--batch: expected one with --costs, got 1, 8"),
        (("--costs", "c.json", "--against", "other"), "--against: not with --costs"),
        (("--pattern", "block4x1"), "--pattern goes with --costs"),
    ],
)
def test_options_that_do_not_go_together_are_named(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    """Before anything is measured."""
    result = CliRunner().invoke(cli.app, ["profile", str(tmp_path / "missing"), *arguments])
    assert isinstance(result.exception, InputError)
    assert said in str(result.exception)
