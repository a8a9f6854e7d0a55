"""measure_network: a network nested, exported, compared with torch, and timed beside dense ONNX Runtime."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.device_costs import DeviceCosts
from nested_sparse.errors import BenchError, BudgetError, NestedSparseError
from nested_sparse.runtime.profiling import measure_costs
from nested_sparse.runtime.session import Session, random_inputs
from nested_sparse.trainer import export, nest, recalibrate
from nested_sparse.trainer.entry import foreign_errors
from nested_sparse.trainer.model.faster_dense import faster_dense

from ..kernels.dense import dense_session, export_dense_free
from ..kernels.turns import interleaved, timed, verified
from ..neighbours import Neighbours
from .row import BatchTimes, Row, Seconds

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nested_sparse.trainer import NestedModel
    from nested_sparse.trainer.networks import Network, Size

LEVELS = (0.0538, 0.1338, 0.35)
LEAST_ROUNDS = 3
TURN_S = 0.002
"""Least time of a turn, for the sake of runs of microseconds."""
WARM_ROUND_S = 0.1
"""Rounds that take less begin each turn with a call that does not count. The caches hold the others' data then, and the
level that came after the dense network had 1.8 times its speed where the next level had 2.8."""
THREADS = 1
COST_REPEATS, FEW_COST_REPEATS = 7, 3
"""Runs of each copy from which the layers that stay dense are chosen; the second where a run takes WARM_ROUND_S."""
RULE = "ever_slower"

Arrays = Sequence[NDArray[Any]]
Run = Callable[[], Arrays]
"""One inference; it returns the outputs."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure.

    levels: densities. batches: sizes. repeats: most timed rounds of a batch size; there are fewer, LEAST_ROUNDS at
    least, where they would take longer than `seconds`. shallow: whether the networks have fewer layers. cpu_time:
    whether times are those of the processor: of the thread in runs, of the process in exports. choice: whether layers
    stay dense by measurement.
    """

    levels: tuple[float, ...]
    batches: tuple[int, ...]
    repeats: int
    seconds: float
    shallow: bool
    cpu_time: bool
    choice: bool = True


def measure_network(network: Network, settings: Settings) -> Row:
    """The row of `network`; where something fails, the row that says why."""
    row = Row(network.name, network.source, network.pattern, settings.levels)
    neighbours = Neighbours()
    try:
        with (
            foreign_errors("the benchmark", BenchError, None),
            TemporaryDirectory(prefix="nested-sparse-") as folder,
        ):
            size = network.shallow if settings.shallow else network.full
            row = _measured(row, size, settings, Path(folder))
    except NestedSparseError as error:
        return replace(row, unavailable=str(error))
    return replace(row, other_load=round(neighbours.cores(), 3))


def _measured(row: Row, size: Size, settings: Settings, folder: Path) -> Row:
    """`row` with its figures. Errors of any class."""
    files = _made(row, size, settings, folder)
    times = []
    with Session(files.nested, threads=THREADS) as session:
        for batch in settings.batches:
            feed = [example[:batch].numpy() for example in files.examples]
            dense = dense_session(files.dense, THREADS, batch=batch)
            runs = (_dense_run(dense, feed), *(_our_run(session, feed, level) for level in range(len(row.levels))))
            contenders = [
                Contender(
                    f"level {index - 1}" if index else "ONNX Runtime, dense", run, [each[:batch] for each in answer]
                )
                for index, (run, answer) in enumerate(zip(runs, files.answers, strict=True))
            ]
            times.append(_times(batch, contenders, settings))
    with Checkpoint.open(files.nested) as checkpoint:
        return replace(
            row,
            network=checkpoint.metadata.network,
            seconds=files.seconds,
            times=times,
            unprofitable=files.unprofitable,
        )


@dataclass(frozen=True, slots=True)
class Files:
    """Both files of a network. unprofitable: the reason why no layer is to be sparse, else "".

    answers: torch's outputs for `examples`, of the dense model, then of each level.
    """

    dense: Path
    nested: Path
    seconds: Seconds
    unprofitable: str
    examples: tuple[Tensor, ...]
    answers: Sequence[Arrays]


def _made(row: Row, size: Size, settings: Settings, folder: Path) -> Files:
    model, examples = size.model(), size.batch(max(2, *settings.batches))
    clock = time.process_time if settings.cpu_time else time.perf_counter
    dense, nested = folder / "dense.onnx", folder / "nested.safetensors"
    begun_s = clock()
    export_dense_free(model, examples, dense)
    plain_s = clock() - begun_s

    def made(**options: Any) -> tuple[NestedModel, Seconds]:
        begun_s = clock()
        net = nest(model, densities=settings.levels, pattern=row.pattern, **options).eval()
        nest_s = clock() - begun_s
        if net.level_norms():  # random norms let nothing of a sparse level through but constants
            recalibrate(net, [(examples, None)])
        begun_s = clock()
        # each level is compared with torch before it is timed, at each batch size
        export(net, tuple(example[:1] for example in examples), nested, verify=False, force=True)
        return net, Seconds(nest_s, clock() - begun_s, plain_s)

    (net, seconds), unprofitable = made(), ""
    costs = _costs(nested, settings) if settings.choice else []
    try:
        if costs and faster_dense(net, costs, RULE):
            net, seconds = made(costs=costs, dense_where=RULE)
    except BudgetError as error:  # no layer is to be sparse; the file of before is measured
        unprofitable = str(error)
    answers = [_arrays(model, examples)]
    for level in range(net.level_count):
        net.set_level(level)
        answers.append(_arrays(net, examples))
    return Files(dense, nested, seconds, unprofitable, examples, answers)


def _costs(nested: Path, settings: Settings) -> list[DeviceCosts]:
    """The costs at each batch that is measured, at the row's levels; none where no layer has a dense operator."""
    found = []
    for batch in settings.batches:
        with Session(nested, threads=THREADS) as session:
            inputs = random_inputs(session.inputs, batch)
            session.run(inputs, -1)
            begun_s = time.perf_counter()
            session.run(inputs, -1)
            run_s = time.perf_counter() - begun_s
        repeats = COST_REPEATS if run_s < WARM_ROUND_S else FEW_COST_REPEATS
        costs = measure_costs(nested, densities=settings.levels, batch=batch, threads=THREADS, repeats=repeats).costs
        if any(layer.dense_ms is not None for layer in costs.layers.values()):
            found.append(costs)
    return found


@dataclass(frozen=True, slots=True)
class Contender:
    """One side. name: for messages; run: one inference; expected: torch's outputs."""

    name: str
    run: Run
    expected: Arrays


def _times(batch: int, contenders: Sequence[Contender], settings: Settings) -> BatchTimes:
    """Compare all outputs with torch's, then time the contenders in turns. Raises BenchError: they disagree."""
    errors = [_error(contender, batch) for contender in contenders]
    clock = time.thread_time if settings.cpu_time else time.perf_counter
    begin_s = clock()
    for contender in contenders:
        contender.run()
    round_s = clock() - begin_s
    calls = math.ceil(TURN_S * len(contenders) / round_s)
    rounds = max(LEAST_ROUNDS, min(settings.repeats, int(settings.seconds / (calls * round_s))))
    runs = {
        contender.name: timed(contender.run, clock, calls=calls, warm=round_s < WARM_ROUND_S)
        for contender in contenders
    }
    dense_ms, *levels_ms = interleaved(runs, rounds).values()
    return BatchTimes(batch, dense_ms, levels_ms, errors[1:], errors[0])


def _error(contender: Contender, batch: int) -> float:
    got = contender.run()
    if len(got) != len(contender.expected):
        raise BenchError(f"{contender.name}: expected {len(contender.expected)} outputs, got {len(got)}")
    name = f"{contender.name}, batch {batch}"
    return max(verified(name, ours, torchs) for ours, torchs in zip(got, contender.expected, strict=True))


def _our_run(session: Session, feed: Arrays, level: int) -> Run:
    named = {spec.name: array for spec, array in zip(session.inputs, feed, strict=True)}
    return lambda: list(session.run(named, level).values())


def _dense_run(dense: Any, feed: Arrays) -> Run:
    named = {spec.name: array for spec, array in zip(dense.get_inputs(), feed, strict=True)}
    return lambda: dense.run(None, named)


def _arrays(model: nn.Module, examples: tuple[Tensor, ...]) -> Arrays:
    import torch

    with torch.inference_mode():
        answer = model(*examples)
    return [tensor.numpy() for tensor in (answer if isinstance(answer, tuple) else (answer,))]
