"""The tool families: ladders of several studies in one table, against dense nets and against nets alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "families.py"

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="tools/families.py reads TOML with Python 3.11's tomllib"
)

STUDY = """
title = "small"
recipe = "none"
[data]
[metric]
name = "mean_iou"
share = true
[[row]]
name = "dense"
kind = "dense"
[[row]]
name = "narrow"
kind = "dense"
[[row]]
name = "20 % alone"
kind = "separate"
[[row]]
name = "ladder"
kind = "nested"
compare = ["dense", "20 % alone"]
[[row]]
name = "bytes"
kind = "nested"
int8_of = "ladder"
"""
FAMILIES = """
title = "pictured"
[paper]
name = "a paper"
points = [[0.1, -2.0]]
[[family]]
name = "trained"
study = "small.toml"
dense = "dense"
small = "narrow"
ladder = "ladder"
int8 = "bytes"
[[family]]
name = "to be trained"
study = "empty.toml"
dense = "dense"
ladder = "ladder"
"""


def line(row: str, seed: int, levels: dict[float, float], flops: int = 1000) -> str:
    told: list[dict[str, Any]] = [
        {"density": density, "flops": flops, "mean_iou": figure} for density, figure in levels.items()
    ]
    return json.dumps({"row": row, "seed": seed, "levels": told, "passes": 1.0, "seconds": 1.0, "settings": {}}) + "\n"


def called(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), str(folder / "families.toml")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.toml").write_text(STUDY)
    (tmp_path / "empty.toml").write_text(STUDY)
    (tmp_path / "families.toml").write_text(FAMILIES)
    return tmp_path


def test_levels_are_set_against_dense_and_against_the_same_density_alone(folder: Path) -> None:
    """Pairs of seeds; the family without runs is not there."""
    runs = [
        line("dense", 0, {1.0: 0.8}) + line("dense", 1, {1.0: 0.5}),
        line("narrow", 0, {1.0: 0.4}, 250) + line("narrow", 1, {1.0: 0.25}, 250),
        line("20 % alone", 0, {0.201: 0.75}) + line("20 % alone", 1, {0.201: 0.45}),
        line("ladder", 0, {0.2: 0.6, 0.7: 0.8}) + line("ladder", 1, {0.2: 0.36, 0.7: 0.5}),
    ]
    (folder / "small.jsonl").write_text("".join(runs))
    done = called(folder)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert (
        "| trained | mean iou, % | 2 | 65.00 ± 21.21, se 15.00 | -26.50 ± 1.50 % (20.0%) | +0.00 ± 0.00 % (70.0%) "
        "| -50.00 ± 0.00 % (25.0% of the FLOPs) |"
    ) in told
    assert "| trained | -20.00 ± 0.00 % |  |" in told
    assert "to be trained" not in done.stdout
    assert (folder / "families.png").stat().st_size > 1000


def test_less_of_an_error_is_better(folder: Path) -> None:
    """The sign says so, in place of that of the figure."""
    (folder / "small.toml").write_text(STUDY.replace("share = true", "share = false\nhigher_is_better = false"))
    (folder / "small.jsonl").write_text(line("dense", 0, {1.0: 2.0}) + line("ladder", 0, {0.2: 2.5, 0.7: 1.5}))
    assert "| -25.00 % (20.0%) | +25.00 % (70.0%) |" in called(folder).stdout


def test_int8_and_times_have_tables_of_their_own(folder: Path) -> None:
    """Each level of the int8 file against float32, and times as multiples of dense; no such table without figures."""
    floats = line("dense", 0, {1.0: 0.8}) + line("ladder", 0, {0.2: 0.5, 0.7: 0.8})
    (folder / "small.jsonl").write_text(floats)
    assert "int8" not in called(folder).stdout
    (folder / "small.jsonl").write_text(floats + line("bytes", 0, {0.2: 0.4, 0.7: 0.88}))
    of_family = {"dense_ms": 3.0, "levels_ms": [1.0, 2.0], "int8_ms": [0.5, 6.0], "cpu": "a chip", "rounds": 7}
    times = {"families": {"trained": of_family, "gone": of_family}}
    (folder / "families.times.json").write_text(json.dumps(times))
    told = called(folder).stdout.splitlines()
    assert "| trained | -20.00 % | +10.00 % |" in told
    assert "| trained | a chip, 7 | 3.000 | 1.000 (3.0 ×) | 2.000 (1.5 ×) |" in told
    assert "| trained, int8 | a chip, 7 | 3.000 | 0.500 (6.0 ×) | 6.000 (0.5 ×) |" in told
    assert not any("gone" in row for row in told)


@pytest.mark.parametrize(
    ("word", "other", "told"),
    [
        ('ladder = "ladder"', 'ladder = "leader"', "small.toml has no row 'leader'"),
        ("small.toml", "empty.toml", "no family has runs"),
    ],
)
def test_a_family_that_cannot_be_shown_is_one_line(folder: Path, word: str, other: str, told: str) -> None:
    (folder / "families.toml").write_text(FAMILIES.replace(word, other))
    done = called(folder)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
