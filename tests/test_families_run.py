"""The tools that run families: times against dense ONNX Runtime, and all of them in one server."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tiny_recipe import tiny

from nested_sparse.trainer.recipes.run import run_recipe

TOOLS = Path(__file__).parents[1] / "tools"

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="the tools read TOML with Python 3.11's tomllib")

STUDY = """
title = "small"
recipe = "RECIPE"
[data]
[[row]]
name = "ladder"
kind = "nested"
settings = { "nesting.name" = "interleaved", "nesting.epochs" = 1, "train.dense_epochs" = 0 }
[[row]]
name = "bytes"
kind = "nested"
int8_of = "ladder"
"""
FAMILIES = """
[[family]]
name = "digits"
study = "small.toml"
ladder = "ladder"
int8 = "bytes"
[[family]]
name = "digits again"
study = "small.toml"
ladder = "ladder"
[[family]]
name = "not trained"
study = "empty.toml"
ladder = "ladder"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Families and studies, with a kept ladder of two levels and its int8 file."""
    folder = tmp_path_factory.mktemp("families")
    recipe = tiny(
        folder, "nesting.name=interleaved", "nesting.epochs=1", "train.dense_epochs=0", "output.int8_beside=true"
    )
    figures = run_recipe(recipe, folder / "run")
    kept = folder / "kept" / "small"
    kept.mkdir(parents=True)
    for row, made in (("ladder", figures), ("bytes", figures["int8"])):
        shutil.copyfile(made["checkpoint"], kept / f"{row}-0.safetensors")
    study = STUDY.replace("RECIPE", str(folder / "tiny.toml"))
    (folder / "small.toml").write_text(study)
    (folder / "empty.toml").write_text(study)
    (folder / "small.jsonl").write_text(
        "".join(json.dumps({"row": row, "seed": 0}) + "\n" for row in ("ladder", "bytes"))
    )
    (folder / "families.toml").write_text(FAMILIES)
    return folder


def called(monkeypatch: pytest.MonkeyPatch, name: str, folder: Path, *options: str) -> int | str | None:
    """The exit code of the tool."""
    monkeypatch.syspath_prepend(str(TOOLS))
    command = [name, str(folder / "families.toml"), "--keep", str(folder / "kept"), *options]
    monkeypatch.setattr(sys, "argv", command)
    try:
        importlib.import_module(name).main()
    except SystemExit as end:
        return end.code
    return 0


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool that serves, with an SLO that any machine holds."""
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    monkeypatch.syspath_prepend(str(TOOLS))
    served = importlib.import_module("families_served")
    monkeypatch.setattr(served, "default_slo_ms", lambda _: 60_000.0)
    return served


def test_each_kept_level_is_timed_beside_dense(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files of the family that has two; times of a family that is not measured now stay."""
    times = folder / "families.times.json"
    times.write_text(json.dumps({"families": {"gone": {"dense_ms": 1.0}}}))
    assert called(monkeypatch, "families_latency", folder, "--rounds", "1") == 0
    told = json.loads(times.read_text())
    assert told["threads"] == told["batch"] == 1
    assert list(told["families"]) == ["gone", "digits", "digits again"]
    both, alone = told["families"]["digits"], told["families"]["digits again"]
    assert len(both["levels_ms"]) == len(both["int8_ms"]) == len(alone["levels_ms"]) == 2
    assert "int8_ms" not in alone
    assert both["rounds"] == 1
    assert all(ms > 0 for ms in (both["dense_ms"], *both["levels_ms"], *both["int8_ms"]))


def test_all_are_asked_in_one_server(
    folder: Path, patient: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kept ladder has a row; every answer is that of its level."""
    options = ("--seconds", "2", "--co-runner", "none", "--first", "small")
    assert called(monkeypatch, "families_served", folder, *options) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| digits")]
    assert [row[0] for row in rows] == ["| digits", "| digits again"]
    for row in rows:
        assert int(row[2]) > 10
        assert row[4].endswith(" / 0 / 0")
        assert row[8].startswith("accuracy 0.")


def test_a_wrong_answer_is_the_exit_code(
    folder: Path, patient: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compared with other outputs than the file gives."""
    make = patient.make_reference

    def other(workload: object, session: object) -> object:
        found = make(workload, session)
        for level in found.expected:
            level[:] = [2 * output + 1 for output in level]
        return found

    monkeypatch.setattr(patient, "make_reference", other)
    assert called(monkeypatch, "families_served", folder, "--seconds", "1", "--co-runner", "none") == 1
    told = capsys.readouterr().out
    assert "| digits again |" in told


def test_a_study_that_is_to_go_first_must_be_there(
    folder: Path, patient: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--first cora: no study of that name" in str(
        called(monkeypatch, "families_served", folder, "--first", "cora")
    )


def test_without_a_checkpoint_it_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In one line, with the option that helps."""
    code = called(monkeypatch, "families_served", folder, "--keep", str(tmp_path), "--out", str(tmp_path))
    assert str(code).endswith("no family has a checkpoint in the folder of --keep")
