"""Distributed training: two processes, compared with one, and their failures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distributed_run import GROW, INTERLEAVED, JOINT, train_normless
from small_models import small_batches
from torch import Tensor

from nested_sparse.errors import TrainingError
from nested_sparse.trainer import start_processes
from nested_sparse.trainer.distributed import rank, world_size

SCRIPT = Path(__file__).with_name("distributed_run.py")
Results = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of two processes that torchrun started."""
    folder: Path = tmp_path_factory.mktemp("processes")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*launcher, str(SCRIPT), str(folder)], stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            process.wait(timeout=400)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    assert (folder / "0.pt").exists(), (folder / "log").read_text()
    (folder / "code").write_text(str(process.returncode))
    return folder


@pytest.fixture(scope="module")
def results(out: Path) -> Results:
    one, other = (torch.load(out / f"{number}.pt", weights_only=True) for number in (0, 1))
    return one, other


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


@pytest.mark.parametrize("name", ["grow", "joint", "interleaved"])
def test_two_processes_compute_what_one_does(results: Results, name: str) -> None:
    """On halves of every batch, a net without batch norm gets one process's masks, and its weights to rounding.

    Both are at every level where one process is with the whole batches, with the same random levels in each step. In
    float64: sums in another order then differ by 10^-15, which turns no mask and is far below what a mistake would do.
    """
    expected = train_normless({"grow": GROW, "joint": JOINT, "interleaved": INTERLEAVED}[name])
    one, other = (each[f"normless_{name}"] for each in results)
    assert_same(one, other)
    for key, value in expected.items():
        if key.endswith("first_level"):
            assert torch.equal(one[key], value)
        else:
            torch.testing.assert_close(one[key], value, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["grow", "joint", "interleaved", "int8"])
def test_processes_hold_the_same_net(results: Results, name: str) -> None:
    """Parameters are equal bit for bit at every step, and norm statistics after every epoch, with dropout."""
    one, other = (each[name] for each in results)
    assert one["steps"] == other["steps"]
    assert one["epochs"] == other["epochs"]
    assert len(set(one["steps"])) > len(one["epochs"])  # they do train
    assert one["losses"] == other["losses"]
    assert_same(one["whole"], other["whole"])


@pytest.mark.parametrize("name", ["grow", "joint", "interleaved", "int8", "gap"])
def test_resumed_processes_end_with_the_same_bits(results: Results, name: str) -> None:
    """The first process's file has all state of each process: generators, and nets that are not merged yet."""
    for each in results:
        assert_same(each[name]["whole"], each[name]["resumed"])


def test_ranges_of_int8_are_the_mean_over_the_processes(results: Results) -> None:
    """Each process observes the ranges of its own batches; all have the same ones after an epoch."""
    one, other = (each["int8"]["whole"] for each in results)
    ranges = [key for key in one if key.endswith("int8_ranges")]
    assert len(ranges) == 3
    for key in ranges:
        assert one[key].isfinite().all()
        assert torch.equal(one[key], other[key])


def test_exchanges(results: Results) -> None:
    """Means, gradients that one process or all lack, copies, and masks computed again after a copy."""
    for each in results:
        got = each["exchanges"]
        shared, missing, half = got["gradients"]
        assert shared.tolist() == [0.5, 2.0]
        assert missing is None
        assert half.tolist() == [0.5, 0.5]
        assert got["weight"].tolist() == [0.0] * 3
        assert got["running_mean"].tolist() == [0.5] * 3
        assert got["mask"].all()
        assert torch.equal(got["third"], torch.full((3,), 1 / 3))
        assert got["drawn"].tolist() == [3]
        assert got["scale"]["scale"] == 8.0
        assert got["scale"]["_growth_tracker"] == 5


def test_overflow_in_one_process_is_skipped_by_all(results: Results) -> None:
    """After infinite float16 gradients in one process, all processes have equal and finite weights."""
    one, other = (each["overflow"] for each in results)
    assert_same(one, other)
    assert all(value.isfinite().all() for value in one.values())


def test_errors_end_all_processes(results: Results) -> None:
    """A loss that is not finite in one process, other batches, other settings, or more processes than parts."""
    one, other = (each["errors"] for each in results)
    assert one == other
    assert "the loss of dense became nan; lower TrainConfig.lr" in one["loss"]
    assert "batches of epoch 0: all processes need the same; process 0 has 3, process 1 has 1" in one["batches"]
    assert "lr: all processes need the same; process 0 has 0.05, process 1 has 1.05" in one["settings"]
    assert "Gap.partitions: expected at least one for each of the 2 processes that train" in one["partitions"]


def test_process_that_fails_ends_the_others(out: Path) -> None:
    """The other process's exchange fails at once, and torchrun reports the failure."""
    assert "another process failed, or did not answer in time" in (out / "left_alone").read_text()
    assert (out / "code").read_text() != "0"


# --- parallel GaP


PARTS = [["0"], ["3"], ["9"]]
"""Of small_net's layers of 54, 432 and 384 weights, with three parts."""


def test_each_process_has_another_part_dense(results: Results) -> None:
    """In each step of both searches, part (step + r) mod 3 is dense in process r, which trains separately."""
    for number, each in enumerate(results):
        dense = each["gap"]["dense"]
        assert dense == [PARTS[(step // 5 + number) % 3] for step in range(15)] * 2
    one, other = (each["gap"]["steps"] for each in results)
    equal = [a == b for a, b in zip(one, other, strict=True)]
    # equal after the start, then apart: at the first batch of a step each has zeroed what its own part had dropped
    assert equal == [True, *[False] * 14] * 2
    assert_same(results[0]["gap"]["whole"], results[1]["gap"]["whole"])


def test_merge_takes_each_layer_from_where_it_was_dense(results: Results) -> None:
    """Weight and bias come from that process, all else is the mean. Both get equal bits, and lower levels stay."""
    merges = [each["gap"]["merges"] for each in results]
    assert [seen["level"] for seen in merges[0]] == [0, 0, 0, 1, 1, 1]
    for index, (one, other) in enumerate(zip(*merges, strict=True)):
        owners = [PARTS[(index + number) % 3] for number in (0, 1)]
        assert one["parts"] == other["parts"] == owners
        layers = {name: number for number, names in enumerate(owners) for name in names}
        for key, merged in one["merged"].items():
            name, tensor = key.removeprefix("model.").split(".", 1)
            before = one["before"][key], other["before"][key]
            if name in layers and tensor in ("weight", "bias"):
                assert torch.equal(merged, before[layers[name]])
                # not asked of biases: the true gradient of one in front of a norm is zero, so rounding alone moves it
                assert tensor == "bias" or not torch.equal(*before)
            elif merged.is_floating_point():
                assert torch.equal(merged, torch.stack(before).double().mean(dim=0).float())
            if "first_level" not in key:
                assert torch.equal(merged, other["merged"][key])


def test_merge_changes_nothing_that_lower_levels_have(results: Results) -> None:
    """Weights that level 0 keeps, its bias and its norms, statistics included, stay bit for bit in level 1's search."""
    merges = results[0]["gap"]["merges"]
    found = merges[2]["pruned"]
    for seen in merges[3:]:
        for key, value in seen["pruned"].items():
            if key.endswith(".first_level"):
                weight = key.replace("first_level", "weight")
                frozen = (found[key] == 0).reshape(found[weight].shape)
                assert torch.equal(seen["pruned"][weight][frozen], found[weight][frozen])
                assert ((value == 0) == (found[key] == 0)).all()
            elif ".norms.0." in key:
                assert torch.equal(value, found[key])
        assert torch.equal(seen["pruned"]["model.9.bias"][0], found["model.9.bias"][0])


def test_after_a_merge_all_parts_are_at_their_target(results: Results) -> None:
    """The dense layers keep their largest weights, and the processes are equal."""
    for one, other in zip(*(each["gap"]["merges"] for each in results), strict=True):
        assert_same(one["pruned"], other["pruned"])
        level, density = one["level"], (0.1, 0.3)[one["level"]]
        for name in ("0", "3", "9"):
            weight, first_level = (one["pruned"][f"model.{name}.{tensor}"] for tensor in ("weight", "first_level"))
            kept, count = (first_level <= level).flatten(), int(np.floor(density * weight.numel() + 0.5))
            assert int(kept.sum()) == count
            if level == 0 and name in {name for part in one["parts"] for name in part}:
                assert sorted(kept.nonzero().flatten().tolist()) == sorted(
                    weight.abs().flatten().topk(count).indices.tolist()
                )


# --- what needs one process only


def test_parts_make_up_the_batch() -> None:
    """The parts of three processes are together the batch of one, with shifts, noise and labels."""
    settings = {"shift_px": 2, "noise": 0.5, "seed": 3, "batch_size": 12}
    whole = type(small_batches())(small_batches().data, **settings)  # type: ignore[arg-type]
    parts = [type(whole)(whole.data, **settings, rank=number, world_size=3) for number in range(3)]  # type: ignore[arg-type]
    for batch, *shares in zip(whole(4), *(part(4) for part in parts), strict=True):
        for tensor, pieces in zip(batch, zip(*shares, strict=True), strict=True):
            assert [len(piece) for piece in pieces] == [4, 4, 4]
            assert torch.equal(tensor, torch.cat(pieces))


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("rank", {"rank": 2, "world_size": 2}),
        ("rank", {"rank": 1}),
        ("world_size", {"world_size": 0}),
        ("batch_size", {"batch_size": 15, "world_size": 2}),
        ("batch_size", {"batch_size": 64, "world_size": 2}),
    ],
)
def test_parts_of_unequal_size_are_an_error(field: str, settings: dict[str, int]) -> None:
    """With unequal parts the mean over the processes would not be the mean over the batch."""
    with pytest.raises(TrainingError, match=f"Batches.{field}: expected"):
        type(small_batches())(small_batches().data, **{"batch_size": 16, **settings})  # type: ignore[arg-type]


def test_without_torchrun_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one process, number 0."""
    monkeypatch.delenv("RANK", raising=False)
    with start_processes() as number:
        assert (number, rank(), world_size()) == (0, 0, 1)


def test_processes_that_do_not_meet_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that waits for a missing one stops after its time limit."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    expected = "process 0: the processes that torchrun started did not meet"
    with pytest.raises(TrainingError, match=expected), start_processes(timeout_s=1.0):
        pytest.fail("started alone")
    assert world_size() == 1
