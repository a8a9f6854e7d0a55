"""Rows that compare our levels with peers on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import BenchError
from nested_sparse.runtime.session import Session
from nested_sparse.serving.bench.against_dense import dense_output, kernels_that_ran, our_run
from nested_sparse.serving.bench.dense import dense_session, export_dense
from nested_sparse.serving.bench.peers.client import WORKER, PeerProcess
from nested_sparse.serving.bench.peers.venvs import environment
from nested_sparse.serving.bench.row import Row, Spec, speedup
from nested_sparse.serving.bench.turns import Run, interleaved, relative_error, timed, verified
from nested_sparse.serving.bench.workshop import Built, Workshop, with_zeros

INT8 = "onnxruntime-int8"


@dataclass(frozen=True, slots=True)
class Contender:
    """A peer with one level's weights loaded. name: with its version; error: of its output, relative to torch's."""

    name: str
    run: Run
    error: float


Opened = dict[str, Contender]
Command = Callable[[str, Path], list[str]]


def worker_command(peer: str, folder: Path) -> list[str]:
    """What starts the worker of `peer`, in its environment under `folder`, made where it is not there yet."""
    return [str(environment(peer, folder)), str(WORKER), peer]


def measure_peers(
    specs: Sequence[Spec],
    built: Built,
    rounds: int,
    workshop: Workshop,
    folder: Path,
    command: Command = worker_command,
) -> list[Row]:
    """All peers and our levels take turns; a peer that fails to set up, load or agree is reported and left out.

    Raises BenchError where our own side fails.
    """
    threads = specs[0].threads
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        contenders: Opened = {}
        for spec in specs:
            try:
                contenders[spec.name] = _open(spec, built, workshop, folder, command, stack)
            except Exception as error:  # a peer's failure, of whatever kind, is a line of the report
                failures[spec.name] = str(error) or repr(error)
        present = [spec for spec in specs if spec.name in contenders]
        session = stack.enter_context(Session(built.path, threads=threads))
        ours = {spec.level: our_run(session, built, spec.level) for spec in present}
        errors = {level: verified(f"level {level}", run(), built.expected[level]) for level, run in ours.items()}
        runs = {f"level {level}": timed(run) for level, run in ours.items()}
        alive, samples = _take_turns(runs, {spec.name: contenders[spec.name].run for spec in present}, rounds, failures)
        kernels = {level: kernels_that_ran(built.path, _at(present, level)) for level in ours}
        isa = session.isa
    rows = [Row(spec, against=spec.peer, unavailable=failures[spec.name]) for spec in specs if spec.name in failures]
    for spec in present:
        if spec.name in alive:
            ours_ms, peer = samples[f"level {spec.level}"], contenders[spec.name]
            row = Row(
                spec,
                against=f"{peer.name}, {threads} thread(s)",
                measured=speedup(ours_ms, samples[spec.name]),
                ours_ms=ours_ms,
                reference_ms=samples[spec.name],
                kernel=kernels[spec.level],
                isa=isa,
                max_error=errors[spec.level],
                reference_error=peer.error,
                note="its output was reported, not held to the float tolerance" if spec.peer == INT8 else "",
            )
            rows.append(row)
    return rows


def _take_turns(
    ours: dict[str, Run], peers: dict[str, Run], rounds: int, failures: dict[str, str]
) -> tuple[set[str], dict[str, list[float]]]:
    """Names of the peers that lasted, and everybody's milliseconds; one that fails is left out from then on."""

    def guarded(name: str, run: Run) -> Run:
        def attempt() -> float:
            if name in failures:
                return 0.0
            try:
                return run()
            except BenchError as error:
                failures[name] = str(error)
                return 0.0

        return attempt

    samples = interleaved({**ours, **{name: guarded(name, run) for name, run in peers.items()}}, rounds)
    return {name for name in peers if name not in failures}, samples


def _at(specs: Sequence[Spec], level: int) -> Spec:
    return next(spec for spec in specs if spec.level == level)


def _open(spec: Spec, built: Built, workshop: Workshop, folder: Path, command: Command, stack: ExitStack) -> Contender:
    """Set the peer up, load the level's weights, compare its output. Raises BenchError, or what the peer's tools do."""
    start = [] if spec.peer == INT8 else command(spec.peer, folder)
    model, image = _zeros_model(spec, built, workshop)
    expected = built.expected[spec.level]
    if spec.peer == INT8:
        return _open_int8(spec, built, model, expected)
    process = stack.enter_context(PeerProcess(spec.peer, start, spec.threads))
    process.load(model, image)
    return Contender(process.name, process.run, verified(process.name, process.output(), expected))


def _open_int8(spec: Spec, built: Built, model: Path, expected: NDArray[np.float32]) -> Contender:
    import onnxruntime

    from nested_sparse.serving.bench.peers.int8 import quantised

    session = dense_session(quantised(model, built.feed["input"].shape), spec.threads)

    infer = partial(dense_output, session, built)
    return Contender(
        f"ONNX Runtime {onnxruntime.__version__} dense int8", timed(infer), relative_error(infer(), expected)
    )


def _zeros_model(spec: Spec, built: Built, workshop: Workshop) -> tuple[Path, Path]:
    """The level's weights as an ordinary ONNX model, zeros and all, and the input as a .npy file; made once."""

    def make() -> tuple[Path, Path]:
        import torch

        folder = workshop.folder()
        model, image = folder / "zeros.onnx", folder / "input.npy"
        twin = with_zeros(built.model, built.net, spec.level)
        export_dense(twin, torch.from_numpy(built.feed["input"]), model, plain=True)
        np.save(image, built.feed["input"])
        return model, image

    return workshop.once(("zeros", built.path, spec.level), make)
