"""Training step: its time in each stage, against the plain torch loop of the same dense net.

    python tools/training_step.py [--width 16] [--precision bfloat16]

ResNet-20 on 64 random images of 28 × 28, four levels of block4x1, one thread, SGD with momentum in both; the stages
take turns in one process. Soft labels are off: their forward pass is the method's, not the trainer's. Prints the median
of 30 steps and its ratio to that of the plain loop.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from nested_sparse.trainer import Gradual, Interleaved, TrainConfig, nest
from nested_sparse.trainer.memory_format import arrange_channels_last
from nested_sparse.trainer.models import ResNet20
from nested_sparse.trainer.nestings.freeze_then_grow import RingStage
from nested_sparse.trainer.nestings.interleaved import InterleavedStage
from nested_sparse.trainer.stage import DenseStage, SearchStage, Stage, Work
from nested_sparse.trainer.training_run import TrainingRun, make_optimizer

DENSITIES = (0.0538, 0.1338, 0.35, 0.7)
STEPS, WARM_UP = 30, 5
Step = Callable[[], object]


def plain_step(model: torch.nn.Module, config: TrainConfig, images: torch.Tensor, labels: torch.Tensor) -> Step:
    """A step of a loop without the trainer."""
    weights: list[torch.Tensor] = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    rest: list[torch.Tensor] = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    optimizer = make_optimizer(config, weights, rest)
    arrange_channels_last(model)
    model.train()

    def step() -> None:
        with torch.autocast("cpu", getattr(torch, config.precision), enabled=config.precision != "float32"):
            loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def stage_step(
    width: int, config: TrainConfig, make: Callable[[Work], Stage], images: torch.Tensor, labels: torch.Tensor
) -> Step:
    """A step of the trainer in the middle of a stage."""
    model = ResNet20(width=width, stem_stride=2)
    net = nest(model, densities=DENSITIES, pattern="block4x1", keep_dense=("stem", "fc")).train()
    arrange_channels_last(net)
    work = Work(net, config, F.cross_entropy)
    run = TrainingRun(work, [make(work)], {}, None)
    return lambda: run._step(images, labels, 0.5, update=False)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Time of a training step in each stage.")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--precision", default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = TrainConfig(precision=arguments.precision, dense_epochs=0, search_epochs=0, distill_weight=0.0)
    batch = torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
    stages: dict[str, Callable[[Work], Stage]] = {
        "dense": lambda work: DenseStage(work, 1),
        "search": lambda work: SearchStage(work, 1, Gradual(), 0, DENSITIES[0]),
        "level 0": lambda work: RingStage(work, 1, 0),
        "level 2": lambda work: RingStage(work, 1, 2),
        "interleaved": lambda work: InterleavedStage(work, Interleaved(epochs=1, soft_weight=0.0), 1.0),
    }
    steps = {"plain torch": plain_step(ResNet20(width=arguments.width, stem_stride=2), config, *batch)}
    steps |= {name: stage_step(arguments.width, config, make, *batch) for name, make in stages.items()}
    times_ms: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(WARM_UP + STEPS):
        for name, step in steps.items():
            begin_s = time.perf_counter()
            step()
            times_ms[name].append(1e3 * (time.perf_counter() - begin_s))
    medians_ms = {name: statistics.median(each[WARM_UP:]) for name, each in times_ms.items()}
    for name, ms in medians_ms.items():
        print(f"{name:12} {ms:7.2f} ms  {ms / medians_ms['plain torch']:.2f}")


if __name__ == "__main__":
    main()
