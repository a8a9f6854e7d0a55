"""Resumed runs: a run that was stopped or killed, and state files that are not of the run."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import nested_small_net, small_batches, snapshot
from small_runs import EPOCHS, GROW, QUICK, run
from torch import nn

from nested_sparse.errors import NestedSparseError, TrainingError
from nested_sparse.trainer import nest, train
from nested_sparse.trainer.config import TrainConfig
from nested_sparse.trainer.progress import EpochReport


class KilledError(Exception):
    """Stops a run as a signal does."""


@pytest.mark.parametrize("stop_after", [1, 2, 3, 6, EPOCHS])
def test_resumed_run_equals_uninterrupted(tmp_path: Path, stop_after: int) -> None:
    """A run stopped in the middle of the epoch after `stop_after` ends with the same bits."""
    whole, resumed = nested_small_net(), nested_small_net()
    run(whole)
    state_path = tmp_path / "run.state"
    batches = small_batches()

    def until_killed(epoch: int) -> Iterable[Any]:
        for index, batch in enumerate(batches(epoch)):
            if epoch == stop_after and index == 1:
                raise KilledError
            yield batch

    class Sized(list[Any]):
        """An epoch with the real length, so that schedules agree."""

        def __init__(self, epoch: int) -> None:
            super().__init__(batches(epoch))
            self.epoch = epoch

        def __iter__(self) -> Any:
            return iter(until_killed(self.epoch))

    torch.manual_seed(11)
    if stop_after < EPOCHS:
        with pytest.raises(KilledError):
            train(resumed, Sized, F.cross_entropy, QUICK, nesting=GROW, state_path=state_path)
        resumed = nested_small_net()
        torch.manual_seed(99)
    reports = train(resumed, batches, F.cross_entropy, QUICK, nesting=GROW, state_path=state_path)
    assert len(reports) == EPOCHS
    expected, got = snapshot(whole), snapshot(resumed)
    assert all(torch.equal(got[key], value) for key, value in expected.items())


def test_finished_run_is_only_loaded(tmp_path: Path) -> None:
    """A second call with a finished run's state trains nothing."""
    net, again = nested_small_net(), nested_small_net()
    reports = run(net, state_path=tmp_path / "state")
    assert run(again, state_path=tmp_path / "state", on_progress=pytest.fail) == reports
    assert all(torch.equal(value, snapshot(net)[key]) for key, value in snapshot(again).items())


KILLED_SCRIPT = """
import sys, time, torch
import torch.nn.functional as F
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from small_models import nested_small_net, small_batches
from small_runs import GROW, QUICK
from nested_sparse.trainer import train

net = nested_small_net()
torch.manual_seed(11)
def on_progress(report):
    print(report.done_epochs, flush=True)
    if report.done_epochs == 5:
        time.sleep(600)
train(net, small_batches(), F.cross_entropy, QUICK, nesting=GROW, state_path=sys.argv[2], on_progress=on_progress)
"""


def test_run_killed_by_the_system_resumes(tmp_path: Path) -> None:
    """SIGKILL leaves a state from which the run ends with the uninterrupted run's bits."""
    state_path = tmp_path / "run.state"
    command = [sys.executable, "-c", KILLED_SCRIPT, str(Path(__file__).parent), str(state_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        process.send_signal(signal.SIGKILL)
    assert lines[-1] == "5\n"
    whole, resumed = nested_small_net(), nested_small_net()
    run(whole)
    seen: list[EpochReport] = []
    options = {"state_path": state_path, "on_progress": seen.append}
    train(resumed, small_batches(), F.cross_entropy, QUICK, nesting=GROW, **options)
    assert [report.done_epochs for report in seen] == [6, 7, 8, 9]
    assert all(torch.equal(value, snapshot(whole)[key]) for key, value in snapshot(resumed).items())


def test_other_runs_state_is_refused(tmp_path: Path) -> None:
    """A state of other settings or another model gives an error with the differences; the file stays."""
    path = tmp_path / "state"
    run(nested_small_net(), state_path=path)
    content = path.read_bytes()
    with pytest.raises(TrainingError, match=r"state: belongs to another run; 'lr' differ .*0\.01.*0\.05"):
        run(
            nested_small_net(),
            TrainConfig(dense_epochs=2, search_epochs=1, recalibration_samples=48, lr=0.01),
            state_path=path,
        )
    with pytest.raises(TrainingError, match="'layers' differ"):
        run(nest(nn.Sequential(nn.Linear(3, 3)), densities=(0.1, 0.3, 0.8), pattern="block4x1"), state_path=path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("kind", ["", ".", "folder", "nowhere/state", "script.py", 3])
def test_a_state_path_that_is_no_state_is_refused_at_once(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is a folder, empty, in a missing folder, or a user's file, which the message does not ask to delete."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "script.py").write_text("print()")
    with pytest.raises(NestedSparseError, match=r"choose another state_path$|state_path: expected the path") as caught:
        run(nested_small_net(), state_path=kind)
    assert "delete" not in str(caught.value)
    assert " failed" not in str(caught.value)
