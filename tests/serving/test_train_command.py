"""train command: `nested-sparse train` with named recipes, errors, stops and resumption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

RECIPE = """
[data]
name = "digits"
size = 8
train_samples = 96
batch_size = 32
noise = 0.1
[model]
name = "digit_net"
width = 4
[nest]
densities = [0.2, 0.6]
[nesting]
name = "freeze_then_grow"
epochs_per_level = 2
[train]
dense_epochs = 8
search_epochs = 1
threads = 1
recalibration_samples = 32
"""


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "nested_sparse.serving.cli", "train", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=environment(), check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The recipe trained without a stop, from seed 3: its folder and figures."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.toml").write_text(RECIPE)
    done = run(folder / "tiny.toml", "--out", folder, "--seed", 3, "--json")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_run_goes_on_bit_for_bit(
    tmp_path: Path, whole: tuple[Path, dict[str, Any]], number: signal.Signals
) -> None:
    """Killed in the middle and started again, it writes the checkpoint of an uninterrupted run; SIGTERM says how."""
    folder, figures = whole
    assert (figures["seed"], figures["epochs"]) == (3, 13)
    arguments = (folder / "tiny.toml", "--out", tmp_path, "--seed", 3)
    process = subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True, env=environment())
    deadline = time.monotonic() + 120
    while not (tmp_path / "tiny.state").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    _, said = process.communicate(timeout=180)
    assert not (tmp_path / "tiny.safetensors").exists()
    if number == signal.SIGTERM:
        assert process.returncode == 130
        assert "tiny.state holds the last finished epoch; the same command without --fresh goes on" in said
    again = run(*arguments)
    assert again.returncode == 0, again.stderr
    assert "dense epoch 1/8" not in again.stderr
    assert (tmp_path / "tiny.safetensors").read_bytes() == (folder / "tiny.safetensors").read_bytes()
    assert "100.00%" in again.stdout


def test_a_finished_run_is_reported_again(whole: tuple[Path, dict[str, Any]]) -> None:
    """The same figures, and no epoch."""
    folder, figures = whole
    reported = run(folder / "tiny.toml", "--out", folder, "--seed", 3, "--json")
    assert "epoch" not in reported.stderr
    assert json.loads(reported.stdout) == figures


def test_list_and_errors(tmp_path: Path) -> None:
    """Names on stdout; a mistake is one line on stderr and exit code 1; wrong usage is 2."""
    assert set(json.loads(run("--list", "--json").stdout)) >= {"digits", "fashion-mnist", "spoken-digits"}
    wrong = run("digits", "--set", "train.lrr=1", "--out", tmp_path)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "did you mean 'lr'" in wrong.stderr
    assert len(wrong.stderr.strip().splitlines()) == 1
    assert run().returncode == 2


def test_a_function_of_the_recipe_that_raises_is_one_line(tmp_path: Path) -> None:
    """The table and the function; no traceback, no plea to report what is the user's own."""
    (tmp_path / "mymod.py").write_text("def boom():\n    raise KeyError('boom')\n")
    (tmp_path / "tiny.toml").write_text(RECIPE)
    wrong = subprocess.run(
        command("tiny.toml", "--set", "model.name=mymod:boom"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 1
    assert wrong.stderr.strip() == "nested-sparse: tiny.toml: [model] mymod:boom raised KeyError: 'boom'"
