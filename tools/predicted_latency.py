"""Predicted latency: levels that a budget in milliseconds makes, measured beside those of equal density.

`python tools/predicted_latency.py resnet20 --shape 1 28 28 --option width=16 --option stem_stride=2` exports the
untrained network, measures the costs of its layers, nests it anew for the times that its uniform levels should take by
these costs, and measures both files in turns, for one sample. Nothing is trained: time depends on the masks alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nested_sparse.runtime import Session
from nested_sparse.runtime.profiling import measure_costs
from nested_sparse.runtime.profiling.profile import timed_ms
from nested_sparse.runtime.resources import cpu_model
from nested_sparse.runtime.session import Arrays, random_inputs
from nested_sparse.trainer import NestedModel, export, nest, predicted_latency
from nested_sparse.trainer.models import MODELS

DENSITIES = (0.0538, 0.1338, 0.35, 0.7)


def main() -> None:
    """Print predicted and measured times of each level."""
    options = _arguments()
    torch.manual_seed(0)
    model = MODELS[options.network](**dict(options.option)).eval()
    example = torch.randn(8, *options.shape)
    patterns = ["block4x1", "unstructured"] if options.pattern == "auto" else [options.pattern]
    shared: dict[str, Any] = {"keep_dense": options.keep_dense}
    with tempfile.TemporaryDirectory() as folder:
        uniform_file, latency_file = (Path(folder) / f"{name}.safetensors" for name in ("uniform", "latency"))
        uniform = nest(model, densities=DENSITIES, pattern=patterns[0], **shared)
        _export(uniform, example, uniform_file, options.values)
        measured = measure_costs(uniform_file, patterns, threads=options.threads, repeats=options.repeats)
        costs = measured.costs
        times_ms = predicted_latency(uniform, costs)
        by_latency = nest(
            model, latency_ms=times_ms, costs=costs, budget_by="latency", pattern=options.pattern, **shared
        )
        _export(by_latency, example, latency_file, options.values)
        with (
            Session(uniform_file, threads=options.threads) as first,
            Session(latency_file, threads=options.threads) as second,
        ):
            times = _measured([first, second], options.repeats)
        predicted = predicted_latency(by_latency, costs)
    isa = costs.int8_isa or costs.isa
    print(f"{cpu_model()}, isa {isa}, threads {costs.threads}, {options.pattern}, {options.values}")
    print("level  predicted ms  uniform ms  error %  density  by latency ms  error %  density")
    for level, row in enumerate(zip(times_ms, predicted, *times, strict=True)):
        asked_ms, predicted_ms, uniform_ms, latency_ms = row
        print(
            f"{level:5}  {asked_ms:12.3f}  {uniform_ms:10.3f}  {100 * (asked_ms / uniform_ms - 1):7.1f}"
            f"  {uniform.densities[level]:7.3f}  {latency_ms:13.3f}  {100 * (predicted_ms / latency_ms - 1):7.1f}"
            f"  {by_latency.densities[level]:7.3f}"
        )


def _measured(sessions: Sequence[Session], repeats: int) -> list[list[float]]:
    """Milliseconds of each level of each file: the mean of the fastest quarter of runs in turns."""
    inputs = random_inputs(sessions[0].inputs, 1)
    cases = [(session, level.index) for session in sessions for level in session.levels]
    turns = [[_warm_ms(session, level, inputs) for session, level in cases] for _ in range(1 + repeats)]
    ms = [statistics.fmean(sorted(each)[: (repeats + 3) // 4]) for each in zip(*turns[1:], strict=True)]
    return [ms[: len(ms) // 2], ms[len(ms) // 2 :]]


def _warm_ms(session: Session, level: int, inputs: Arrays) -> float:
    """Milliseconds of a run right after one of the same level, which fills the caches as a server's runs do."""
    session.run(inputs, level)
    return timed_ms(session, level, inputs, time.perf_counter)


def _export(net: NestedModel, example: torch.Tensor, path: Path, values: str) -> None:
    calibration = {"calibration": [(example, None)]} if values == "int8" else {}
    export(net, (example[:1],), path, values=values, verify=False, **calibration)


def _option(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    return name, int(value)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=MODELS)
    parser.add_argument("--shape", type=int, nargs="+", default=[3, 224, 224], help="of one input, without the batch")
    parser.add_argument("--option", type=_option, action="append", default=[], help="of the network, e.g. width=16")
    parser.add_argument("--keep-dense", action="append", default=[], help="layers that stay whole; may be repeated")
    parser.add_argument("--pattern", default="unstructured", help='or "auto", beside levels of block4x1')
    parser.add_argument("--values", default="float32", choices=["float32", "int8"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    return parser.parse_args()


if __name__ == "__main__":
    main()
