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
from nested_sparse.errors import BenchError, NestedSparseError
from nested_sparse.runtime.session import Session
from nested_sparse.trainer import export, nest, recalibrate
from nested_sparse.trainer.entry import foreign_errors

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
"""Least time of a turn: the caches hold the other contenders' weights when it begins, which no client would see."""
THREADS = 1

Arrays = Sequence[NDArray[Any]]
Run = Callable[[], Arrays]
"""One inference; it returns the outputs."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure.

    levels: densities. batches: sizes. repeats: most timed rounds of a batch size; there are fewer, LEAST_ROUNDS at
    least, where they would take longer than `seconds`. shallow: whether the networks have fewer layers. clock: seconds,
    time.perf_counter or time.thread_time.
    """

    levels: tuple[float, ...]
    batches: tuple[int, ...]
    repeats: int
    seconds: float
    shallow: bool
    clock: Callable[[], float]


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
    model, examples = size.model(), size.batch(max(2, *settings.batches))
    begin_s = time.perf_counter()
    dense_path = folder / "dense.onnx"
    export_dense_free(model, examples, dense_path)
    plain_s = time.perf_counter()
    net = nest(model, densities=settings.levels, pattern=row.pattern)
    nest_s = time.perf_counter()
    if net.level_norms():  # random norms let nothing of a sparse level through but constants
        recalibrate(net, [(examples, None)])
    net.eval()
    ready_s = time.perf_counter()
    # each level is compared with torch below, at each batch size
    path = export(net, tuple(example[:1] for example in examples), folder / "nested.safetensors", verify=False)
    seconds = Seconds(nest_s - plain_s, time.perf_counter() - ready_s, plain_s - begin_s)
    with Checkpoint.open(path) as checkpoint:
        figures = checkpoint.metadata.network
    expected, dense_expected = _answers(net, model, examples)
    del net, model
    times = []
    with Session(path, threads=THREADS) as session:
        for batch in settings.batches:
            feed = [example[:batch].numpy() for example in examples]
            dense = dense_session(dense_path, THREADS, batch=batch)
            contenders = [
                Contender("ONNX Runtime, dense", _dense_run(dense, feed), [each[:batch] for each in dense_expected]),
                *(
                    Contender(f"level {level}", _our_run(session, feed, level), [each[:batch] for each in answer])
                    for level, answer in enumerate(expected)
                ),
            ]
            times.append(_times(batch, contenders, settings))
    return replace(row, network=figures, seconds=seconds, times=times)


@dataclass(frozen=True, slots=True)
class Contender:
    """One side. name: for messages; run: one inference; expected: torch's outputs."""

    name: str
    run: Run
    expected: Arrays


def _times(batch: int, contenders: Sequence[Contender], settings: Settings) -> BatchTimes:
    """Compare all outputs with torch's, then time the contenders in turns. Raises BenchError: they disagree."""
    errors = [_error(contender, batch) for contender in contenders]
    begin_s = time.perf_counter()
    for contender in contenders:
        contender.run()
    round_s = time.perf_counter() - begin_s
    calls = math.ceil(TURN_S * len(contenders) / round_s)
    rounds = max(LEAST_ROUNDS, min(settings.repeats, int(settings.seconds / (calls * round_s))))
    runs = {contender.name: timed(contender.run, settings.clock, calls=calls) for contender in contenders}
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
    return lambda: dense.run(None, named)  # type: ignore[no-any-return]


def _answers(net: NestedModel, model: nn.Module, examples: tuple[Tensor, ...]) -> tuple[list[Arrays], Arrays]:
    """torch's outputs of each level, and of the dense model."""
    levels = []
    for level in range(net.level_count):
        net.set_level(level)
        levels.append(_arrays(net, examples))
    return levels, _arrays(model, examples)


def _arrays(model: nn.Module, examples: tuple[Tensor, ...]) -> Arrays:
    import torch

    with torch.inference_mode():
        answer = model(*examples)
    return [tensor.numpy() for tensor in (answer if isinstance(answer, tuple) else (answer,))]
