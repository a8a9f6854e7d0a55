"""The tool study: rows are trained, timed and set against one another, with their spread over seeds."""

from __future__ import annotations

import importlib
import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tiny_recipe import tiny

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.trainer.recipes.recipe import load_recipe
from nested_sparse.trainer.recipes.run import run_recipe

TOOLS = Path(__file__).parents[1] / "tools"

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="tools/study.py reads TOML with Python 3.11's tomllib"
)

STUDY = """
title = "small"
recipe = "RECIPE"
[data]
[settings]
"train.search_epochs" = 0
"train.dense_epochs" = 0
"nesting.epochs_per_level" = 0
[[row]]
name = "dense, B/4, 100 %"
kind = "dense"
line = "dense"
settings = { "nest.densities" = [1.0] }
[[row]]
name = "five"
kind = "nested"
line = "ladder"
compare = "dense, B/4, 100 %"
teacher = "dense, B/4, 100 %"
settings = { "nest.densities" = [0.1, 0.2, 0.3, 0.4, 0.5] }
[[row]]
name = "five, int8"
kind = "nested"
int8_of = "five"
compare = "five"
"""


@pytest.fixture(scope="module")
def report() -> ModuleType:
    return imported("study_report")


@pytest.fixture(scope="module")
def study() -> ModuleType:
    return imported("study")


def imported(name: str) -> ModuleType:
    sys.path.insert(0, str(TOOLS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(TOOLS))


def test_several_processes_of_a_training_are_started_by_torchrun(study: ModuleType) -> None:
    """One process is started as it was before."""
    assert study.launcher(1) == ["-m"]
    assert study.launcher(4)[-3:] == ["--nproc-per-node", "4", "-m"]
    assert study.launcher(4)[1] == "torch.distributed.run"


def line(
    *accuracies: float, densities: tuple[float, ...], passes: float = 10.0, **metrics: list[float]
) -> dict[str, Any]:
    levels = [
        {
            "density": density,
            "flops": 1000,
            "accuracy": accuracy,
            **{name: each[level] for name, each in metrics.items()},
        }
        for level, (accuracy, density) in enumerate(zip(accuracies, densities, strict=True))
    ]
    return {"levels": levels, "passes": passes, "seconds": 60.0}


def test_differences_are_paired_by_seed(report: ModuleType) -> None:
    """Both rows fall by the same share in each seed, so the paired difference has no error, though each row varies."""
    difference = report.Difference.of({0: 81.0, 1: 90.0, 2: 72.0}, {0: 90.0, 1: 100.0, 2: 80.0, 7: 3.0})
    assert (difference.mean, difference.error, difference.pairs) == pytest.approx((-10.0, 0.0, 3))
    difference = report.Difference.of({0: 99.0, 1: 98.0}, {0: 100.0, 1: 100.0})
    assert (difference.mean, difference.error, difference.pairs) == pytest.approx((-1.5, 0.5, 2))
    assert difference.text() == "-1.50 ± 0.50 %"


def test_without_pairs_the_errors_of_the_means_add_up(report: ModuleType) -> None:
    """Seeds 0 and 1 against 2 and 3: √(1² + 2²) percent. A single seed has no error."""
    difference = report.Difference.of({0: 49.5, 1: 50.5}, {2: 98.0, 3: 102.0})
    assert (difference.mean, difference.error, difference.pairs) == pytest.approx((-50.0, 50 * 5**0.5 / 100, 0))
    assert report.Difference.of({0: 49.5}, {1: 99.0}).error is None
    assert report.Difference.of({3: 49.5}, {3: 99.0}).pairs == 1


def test_tables_hold_old_lines_and_many_levels(report: ModuleType) -> None:
    """Rows with and without disagreement; levels are compared with a dense net, with their number, or by density."""
    ladder = (0.1, 0.2, 0.3, 0.4, 0.5)
    dense = report.Finished("dense", "dense", "", [], {0: line(0.9, densities=(1.0,)), 1: line(0.8, densities=(1.0,))})
    alone = report.Finished("alone", "separate", "", ["dense"], {0: line(0.5, densities=(0.205,))})
    differing = [0.25, 0.2, 0.1, 0.05, 0.0]
    lines = {
        0: line(0.1, 0.2, 0.3, 0.4, 0.9, densities=ladder, disagreement=differing),
        1: line(0.1, 0.2, 0.3, 0.4, 0.8, densities=ladder),
    }
    nested = report.Finished("nested", "nested", "", ["dense", "alone"], lines)
    told = list(report.tables([dense, alone, nested]))
    assert "| row | seeds | passes | seconds | level 0 | level 1 | level 2 | level 3 | level 4 |" in told
    assert "| dense | 2 | 10.0 | 60 ± 0 | 85.00 ± 7.07, se 5.00 (100.0%) |  |  |  |  |" in told
    against = [each for each in told if each.startswith("| nested | dense |")]
    assert against[0].endswith("| +0.00 ± 0.00 % |")
    assert "| nested | alone | 0 |  | -60.00 % |  |  |  |" in told
    assert "| nested | 25.00 | 20.00 | 10.00 | 5.00 | 0.00 |" in told


def test_rows_are_trained_kept_timed_and_shown(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row waits for its teacher, or for the row that it is the int8 file of; a second run trains nothing.

    The results name no path of a checkpoint.
    """
    tiny(tmp_path)
    path, keep = tmp_path / "small.toml", tmp_path / "kept"
    path.write_text(STUDY.replace("RECIPE", str(tmp_path / "tiny.toml")))
    trained: list[str] = []

    def train(command: list[str], **_: object) -> SimpleNamespace:
        if Path(command[1]).name == "int8_accuracy.py":
            monkeypatch.setattr(sys, "argv", command[1:])
            imported("int8_accuracy").main()
            return SimpleNamespace(returncode=0, stdout=b"")
        options = command[command.index("train") + 1 :]
        settings = [value for flag, value in itertools.pairwise(options) if flag == "--set"]
        seed, out = (options[options.index(flag) + 1] for flag in ("--seed", "--out"))
        trained.append(out)
        recipe = load_recipe(options[0], [*settings, f"train.seed={seed}"])
        if "five" in out:
            assert recipe.teacher.checkpoint == keep / "small" / "dense,-B-of-4,-100--0.safetensors"
        return SimpleNamespace(returncode=0, stdout=json.dumps(run_recipe(recipe, Path(out))))

    monkeypatch.setattr(study, "subprocess", SimpleNamespace(run=train, PIPE=subprocess.PIPE))

    def call(verb: str, *arguments: object) -> str:
        given = ["study.py", verb, path, "--out", tmp_path / "out", "--keep", keep, "--seeds", 0, *arguments]
        monkeypatch.setattr(sys, "argv", [str(each) for each in given])
        study.main()
        return capsys.readouterr().out

    call("run", "--rows", "five")
    assert not trained
    call("run")
    call("run")
    assert len(trained) == 2
    results = path.with_suffix(".jsonl").read_text()
    assert str(keep) not in results
    lines = [json.loads(each) for each in results.splitlines()]
    assert [each.get("teacher") for each in lines] == [None, "dense, B/4, 100 %", None]
    assert lines[2]["int8_of"] == "five"
    assert [lines[2][key] for key in ("settings", "passes")] == [lines[1][key] for key in ("settings", "passes")]
    with Checkpoint.open(keep / "small" / "five,-int8-0.safetensors") as checkpoint:
        assert {layer.value_type.scaled for layer in checkpoint.layers} == {True}
        assert [level["accuracy"] for level in lines[2]["levels"]] == [
            level.metrics["accuracy"] for level in checkpoint.levels
        ]
    for level in lines[1]["levels"]:  # as a version wrote it that did not know disagreement
        del level["disagreement"]
    path.with_suffix(".jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    call("fill")
    filled = [json.loads(each) for each in path.with_suffix(".jsonl").read_text().splitlines()]
    for level, said in zip(filled[1]["levels"], json.loads(results.splitlines()[1])["levels"], strict=True):
        assert level["disagreement"] == pytest.approx(said["disagreement"], abs=2 / 40 + 1e-9)
    assert filled[0] == lines[0]
    call("time", "--rounds", 2)
    times = json.loads(path.with_suffix(".times.json").read_text())
    assert {name: len(ms) for name, ms in times["rows"].items()} == {
        "dense, B/4, 100 %": 1,
        "five": 5,
        "five, int8": 5,
    }
    assert min(times["rows"]["five"]) > 0
    told = call("show")
    for name in ("small.png", "small-budget.png", "small-latency.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
    with Checkpoint.open(keep / "small" / "five-0.safetensors") as checkpoint:
        first = checkpoint.levels[0].metrics
    assert f"| five | 1 | 0.0 | 0 | {100 * first['accuracy']:.2f} (" in told
    assert f"| five | {100 * first['disagreement']:.2f} |" in told
    assert f"| five | {times['rows']['five'][0]:.3f} |" in told


def test_a_row_of_another_name_is_refused(study: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(STUDY.replace('compare = "dense, B/4, 100 %"', 'compare = "none"'))
    with pytest.raises(SystemExit, match="row 'five': there is no row 'none'"):
        study.Study(path)


@pytest.mark.parametrize("line", ['int8_of = "five, int8"', 'int8_of = "five"\nsettings = { "train.lr" = 1.0 }'])
def test_a_row_in_int8_has_a_trained_row_and_its_settings(study: ModuleType, tmp_path: Path, line: str) -> None:
    path = tmp_path / "small.toml"
    path.write_text(STUDY.replace('int8_of = "five"', line))
    with pytest.raises(SystemExit, match="row 'five, int8': int8_of names a row that is trained"):
        study.Study(path)


@pytest.mark.parametrize(("samples", "common", "passes"), [(250, None, 2.0), (None, None, 8.0), (250, 500, 4.0)])
def test_passes_are_counted_in_epochs_of_the_study(
    study: ModuleType, tmp_path: Path, samples: int | None, common: int | None, passes: float
) -> None:
    """A row whose epochs are a quarter of the training images has a quarter of the passes in them."""
    path = tmp_path / "small.toml"
    path.write_text(
        STUDY if common is None else STUDY.replace("[[row]]", f'"data.epoch_samples" = {common}\n[[row]]', 1)
    )
    settings = {} if samples is None else {"data.epoch_samples": samples}
    figures = line(0.5, densities=(0.2,), passes=8.0)
    of_run = {"row": "five", "seed": 0, **figures, "settings": settings, "data": {"train_samples": 1000}}
    path.with_suffix(".jsonl").write_text(json.dumps(of_run) + "\n")
    (row,) = study.Study(path).finished()
    assert row.lines[0]["passes"] == passes


def test_a_metric_that_is_no_share_is_shown_as_it_is(report: ModuleType) -> None:
    """Bits per byte stand in no percent; their differences do."""
    bits = report.Metric("bits_per_byte", share=False)

    def row(name: str, kind: str, compare: list[str], *values: float) -> Any:
        densities = (0.1, 1.0)[-len(values) :]
        levels = [{"density": d, "flops": 1, "bits_per_byte": v} for d, v in zip(densities, values, strict=True)]
        return report.Finished(name, kind, "", compare, {0: {"levels": levels, "passes": 1.0, "seconds": 1.0}})

    told = list(
        report.tables([row("dense", "dense", [], 2.0), row("ladder", "nested", ["dense"], 2.5, 2.1)], None, bits)
    )
    assert told[0].startswith("Bits per byte: mean")
    assert "| ladder | 1 | 1.0 | 1 | 2.50 (10.0%) | 2.10 (100.0%) |" in told
    assert "| ladder | dense | 1 | +25.00 % | +5.00 % |" in told
