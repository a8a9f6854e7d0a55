"""Peer rows: our levels against peers on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import BenchError
from nested_sparse.runtime.session import Session

from ..against_dense import dense_output, kernels_that_ran, our_run
from ..dense import dense_session, export_dense
from ..model_cache import Built, ModelCache, with_zeros
from ..row import Row, Spec, speedup
from ..turns import Run, interleaved, relative_error, timed, verified
from .client import WORKER, PeerProcess
from .venvs import environment

INT8 = "onnxruntime-int8"


@dataclass(frozen=True, slots=True)
class LoadedPeer:
    """A peer with one level's weights loaded. name: with its version; error: of its output, relative to torch's."""

    name: str
    run: Run
    error: float


Command = Callable[[str, Path], list[str]]


def worker_command(peer: str, folder: Path) -> list[str]:
    """The command of `peer`'s worker, in its environment under `folder`, which is made if it is not there yet."""
    return [str(environment(peer, folder)), str(WORKER), peer]


def measure_peers(
    specs: Sequence[Spec],
    built: Built,
    rounds: int,
    cache: ModelCache,
    folder: Path,
    command: Command = worker_command,
) -> list[Row]:
    """All peers and our levels take turns. A peer that cannot be set up, loads nothing or disagrees is left out.

    Its row gives the reason. Raises BenchError: our own side fails.
    """
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        peers: dict[str, LoadedPeer] = {}
        for spec in specs:
            try:
                peers[spec.name] = _open(spec, built, cache, lambda peer: command(peer, folder), stack)
            except Exception as error:  # any failure of a peer is a line of the report
                failures[spec.name] = str(error) or repr(error)
        session = stack.enter_context(Session(built.path, threads=specs[0].threads))
        ours = {spec.level: our_run(session, built, spec.level) for spec in specs if spec.name in peers}
        errors = {level: verified(_name(level), run(), built.expected[level]) for level, run in ours.items()}
        runs = {_name(level): timed(run) for level, run in ours.items()}
        runs |= {name: _guarded(name, peer.run, failures) for name, peer in peers.items()}
        samples = interleaved(runs, rounds)
        isa = session.isa
    kernels = {
        level: kernels_that_ran(built.path, spec) for level, spec in {each.level: each for each in specs}.items()
    }
    return [
        Row(spec, against=spec.peer, unavailable=failures[spec.name])
        if spec.name in failures
        else _row(spec, peers[spec.name], samples, our_error=errors[spec.level], kernel=kernels[spec.level], isa=isa)
        for spec in specs
    ]


def _row(
    spec: Spec, peer: LoadedPeer, samples: Mapping[str, list[float]], *, our_error: float, kernel: str, isa: str
) -> Row:
    ours_ms, peer_ms = samples[_name(spec.level)], samples[spec.name]
    return Row(
        spec,
        against=f"{peer.name}, {spec.threads} thread(s)",
        measured=speedup(ours_ms, peer_ms),
        ours_ms=ours_ms,
        reference_ms=peer_ms,
        kernel=kernel,
        isa=isa,
        max_error=our_error,
        reference_error=peer.error,
        note="its output's error is reported, not held to the float tolerance" if spec.peer == INT8 else "",
    )


def _name(level: int) -> str:
    return f"level {level}"


def _guarded(name: str, run: Run, failures: dict[str, str]) -> Run:
    """`run`, which is called no more after its first failure."""

    def attempt() -> float:
        if name not in failures:
            try:
                return run()
            except BenchError as error:
                failures[name] = str(error)
        return 0.0

    return attempt


def _open(
    spec: Spec, built: Built, cache: ModelCache, command: Callable[[str], list[str]], stack: ExitStack
) -> LoadedPeer:
    """Set the peer up, load the level's weights, compare its output. Raises BenchError, and errors of its tools."""
    start = [] if spec.peer == INT8 else command(spec.peer)
    model, image = _zeros_model(spec, built, cache)
    expected = built.expected[spec.level]
    if spec.peer == INT8:
        return _open_int8(spec, built, model, expected)
    process = stack.enter_context(PeerProcess(spec.peer, start, spec.threads))
    process.load(model, image)
    return LoadedPeer(process.name, process.run, verified(process.name, process.output(), expected))


def _open_int8(spec: Spec, built: Built, model: Path, expected: NDArray[np.float32]) -> LoadedPeer:
    import onnxruntime

    from .int8 import quantised

    session = dense_session(quantised(model, built.feed["input"].shape), spec.threads)
    infer = partial(dense_output, session, built)
    return LoadedPeer(
        f"ONNX Runtime {onnxruntime.__version__} dense int8", timed(infer), relative_error(infer(), expected)
    )


def _zeros_model(spec: Spec, built: Built, cache: ModelCache) -> tuple[Path, Path]:
    """The level's weights as an ordinary ONNX model, zeros and all, and the input as a .npy file; made once."""

    def make() -> tuple[Path, Path]:
        import torch

        folder = cache.folder()
        model, image = folder / "zeros.onnx", folder / "input.npy"
        twin = with_zeros(built.model, built.net, spec.level)
        export_dense(twin, torch.from_numpy(built.feed["input"]), model, plain=True)
        np.save(image, built.feed["input"])
        return model, image

    return cache.once(("zeros", built.path, spec.level), make)
