"""Distributed run: the script of test_distributed.py, `torchrun distributed_run.py OUT`, writes OUT/{rank}.pt.

Every entry of that file is what one function here returned in one process; the test compares.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from small_models import nested_small_net, small_batches, snapshot
from torch import Tensor, nn

from nested_sparse.errors import TrainingError
from nested_sparse.trainer import (
    FreezeThenGrow,
    Gap,
    Interleaved,
    Joint,
    NestedModel,
    TrainConfig,
    nest,
    start_processes,
    train,
)
from nested_sparse.trainer.distributed import agree, average, average_gradients, copy_from, from_first, rank, world_size
from nested_sparse.trainer.precision import Precision
from nested_sparse.trainer.schedules import gap as gap_module

SEED = 100
CONFIG = TrainConfig(dense_epochs=1, search_epochs=2, recalibration_samples=48)
GROW = FreezeThenGrow(epochs_per_level=1)
JOINT = Joint(epochs=2)
INTERLEAVED = Interleaved(epochs=2, inner_gradient=0.5)
INT8_CONFIG = replace(CONFIG, search_epochs=1, int8_epochs=2)
"""The third epoch, after which `watched` stops a run, is the first with rounding."""
GAP = Gap(partitions=3, parallel=True)
GAP_CONFIG = replace(CONFIG, dense_epochs=0, search_epochs=5, momentum=0.5)
"""15 batches for 3 steps: epochs, after which the state is written, end within steps."""
GAP_NESTING = FreezeThenGrow(epochs_per_level=0, search_each=True)
DENSITIES = (0.1, 0.3, 0.5, 0.8)


def normless_net() -> NestedModel:
    """A net without batch norm and dropout: its output for a sample does not depend on the rest of the batch."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(1, 8, 3, stride=2), nn.LeakyReLU(), nn.Flatten(), nn.LayerNorm(72), nn.Linear(72, 3)]
    return nest(nn.Sequential(*layers), densities=DENSITIES)


def own_batches() -> Any:
    """This process's part of batches with random shifts and noise."""
    return replace(small_batches(), shift_px=1, noise=0.1, rank=rank(), world_size=world_size())


def train_normless(nesting: Any) -> dict[str, Tensor]:
    """Also run by the test in a single process. The processes draw different numbers; all use those of process 0."""
    net, parts = normless_net().double(), own_batches()

    class Doubled(list[Any]):
        """An epoch in float64, as long as the real one."""

        def __init__(self, epoch: int) -> None:
            super().__init__((inputs.double(), targets) for inputs, targets in parts(epoch))

    torch.manual_seed(SEED + rank())
    train(net, Doubled, F.cross_entropy, replace(CONFIG, recalibration_samples=0), nesting=nesting)
    return snapshot(net)


class Watch:
    """Digests of the parameters before every step, and of everything after every epoch."""

    def __init__(self, net: NestedModel) -> None:
        self.net = net
        self.steps: list[str] = []
        self.epochs: list[str] = []
        self.dense: list[list[str]] = []

    def loss_fn(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.steps.append(digest(dict(self.net.named_parameters())))
        layers = self.net.nested_layers()
        self.dense.append([name for name, layer in layers.items() if layer.mask(self.net.level).all()])
        return F.cross_entropy(outputs, targets)

    def on_progress(self, report: Any) -> None:
        self.epochs.append(digest(self.net.state_dict()))


def digest(tensors: dict[str, Tensor]) -> str:
    content = b"".join(tensor.detach().numpy().tobytes() for tensor in tensors.values())
    return hashlib.sha256(content).hexdigest()


def watched(config: TrainConfig, out: Path, **options: Any) -> dict[str, Any]:
    """A run with batch norms and dropout, and the same, stopped after its third epoch and resumed."""
    nets = [nested_small_net(densities=(0.1, 0.3), pattern="unstructured") for _ in range(3)]
    watch = Watch(nets[0])
    torch.manual_seed(SEED + rank())
    train(nets[0], own_batches(), watch.loss_fn, config, on_progress=watch.on_progress, **options)

    def stop(report: Any) -> None:
        if report.done_epochs == 3:
            raise InterruptedError

    torch.manual_seed(SEED + rank())
    state_path = out / f"{type(options['nesting']).__name__}{config.search_epochs}.state"
    try:
        train(nets[1], own_batches(), F.cross_entropy, config, on_progress=stop, state_path=state_path, **options)
    except InterruptedError:
        average([torch.zeros(1)])  # all have stopped
    torch.manual_seed(7)
    reports = train(nets[2], own_batches(), F.cross_entropy, config, state_path=state_path, **options)
    return {
        "steps": watch.steps,
        "epochs": watch.epochs,
        "dense": watch.dense,
        "whole": snapshot(nets[0]),
        "resumed": snapshot(nets[2]),
        "losses": [report.losses for report in reports],
    }


def merges(out: Path) -> dict[str, Any]:
    """P-GaP, with the nets before and after its merges."""
    seen: list[dict[str, Any]] = []
    merge, finish = gap_module.merge, gap_module.GapSearch._finish_step

    def spied_merge(net: NestedModel, dense: Any) -> None:
        before = snapshot(net)
        merge(net, dense)
        parts = [[layer.name for layer in part] for part in dense]
        seen.append({"level": net.level, "parts": parts, "before": before, "merged": snapshot(net)})

    def spied_finish(search: Any) -> None:
        finish(search)
        seen[-1]["pruned"] = snapshot(search.net)

    gap_module.merge, gap_module.GapSearch._finish_step = spied_merge, spied_finish  # type: ignore[method-assign]
    try:
        result = watched(GAP_CONFIG, out, schedule=GAP, nesting=GAP_NESTING)
    finally:
        gap_module.merge, gap_module.GapSearch._finish_step = merge, finish  # type: ignore[method-assign]
    return {**result, "merges": seen[:6]}


def exchanges() -> dict[str, Any]:
    """The single exchanges, on values that differ between the processes."""
    own = float(rank())
    shared, missing, half = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    shared.grad = torch.tensor([own, 2.0])
    half.grad = torch.ones(2) if rank() == 0 else None
    average_gradients([shared, missing, half])
    norm = nn.BatchNorm1d(3)
    nn.init.constant_(norm.weight, own)
    assert norm.running_mean is not None
    norm.running_mean.fill_(own)
    agree(norm)
    net = normless_net()
    layer = net.nested_layers()["4"]
    layer.first_level.fill_(rank())
    layer.mask(0)  # in the cache
    copy_from(0, net)
    third = torch.full((3,), 1 / 3)
    average([third])
    scale = Precision("float16", torch.device("cpu"))
    scale.load_state_dict({**scale.state_dict(), "scale": 8.0 + own, "_growth_tracker": 5 + rank()})
    scale.agree()
    return {
        "gradients": [shared.grad, missing.grad, half.grad],
        "weight": norm.weight.detach(),
        "running_mean": norm.running_mean,
        "mask": layer.mask(0),
        "third": third,
        "drawn": from_first(torch.tensor([3 + rank()])),
        "scale": scale.state_dict(),
    }


def overflow() -> dict[str, Any]:
    """float16 gradients that overflow in process 1 only, in one step."""
    net, calls = normless_net(), 0

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return F.cross_entropy(outputs.float(), targets) * (1e36 if calls == 2 and rank() == 1 else 1.0)

    config = TrainConfig(dense_epochs=1, search_epochs=0, recalibration_samples=0, precision="float16")
    train(net, own_batches(), loss_fn, config, nesting=FreezeThenGrow(epochs_per_level=0))
    return snapshot(net)


def errors() -> dict[str, str]:
    """Runs in which one process has different arguments, or values that are not finite."""

    def nan_in_one(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets) * (float("nan") if rank() == 1 else 1.0)

    def attempt(loss_fn: Any = F.cross_entropy, config: TrainConfig = CONFIG, **options: Any) -> str:
        batches = options.pop("batches", own_batches())
        try:
            train(normless_net(), batches, loss_fn, config, **options)
        except TrainingError as error:
            return str(error)
        return "no error"

    fewer = replace(small_batches(), batch_size=16 * (1 + rank()))
    return {
        "loss": attempt(nan_in_one),
        "batches": attempt(batches=fewer),
        "settings": attempt(config=replace(CONFIG, lr=0.05 + rank())),
        "partitions": attempt(schedule=Gap(partitions=1, parallel=True)),
    }


def in_both(out: Path) -> dict[str, Any]:
    parts: dict[str, Callable[[], Any]] = {
        "exchanges": exchanges,
        "normless_grow": lambda: train_normless(GROW),
        "normless_joint": lambda: train_normless(JOINT),
        "normless_interleaved": lambda: train_normless(INTERLEAVED),
        "grow": lambda: watched(CONFIG, out, nesting=GROW),
        "joint": lambda: watched(CONFIG, out, nesting=JOINT),
        "interleaved": lambda: watched(CONFIG, out, nesting=INTERLEAVED),
        "int8": lambda: watched(INT8_CONFIG, out, nesting=FreezeThenGrow(epochs_per_level=0)),
        "gap": lambda: merges(out),
        "overflow": overflow,
        "errors": errors,
    }
    return {name: part() for name, part in parts.items()}


def main(out: Path) -> None:
    """Run all parts; then process 1 fails, and process 0 must not wait for it."""
    torch.set_num_threads(1)
    try:
        with start_processes(timeout_s=100) as number:
            torch.save(in_both(out), out / f"{number}.pt")
            if number == 1:
                raise InterruptedError
            average([torch.zeros(1)])
    except TrainingError as error:
        (out / "left_alone").write_text(str(error))
    except InterruptedError:
        for _ in range(300):  # torchrun ends the other process once this one has ended
            if (out / "left_alone").exists():
                break
            time.sleep(0.1)
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
