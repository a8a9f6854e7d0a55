"""Peer rows: our levels against peers on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nested_sparse.errors import BenchError
from nested_sparse.runtime.session import Session

from ..contenders import kernels_that_ran, our_run
from ..dense import export_dense
from ..int8 import INT8, calibration_images, quantised_statically
from ..model_cache import Built, ModelCache, with_zeros
from ..row import Row, Spec, speedup
from ..turns import Run, interleaved, timed, tolerance_of, verified
from .client import WORKER, PeerProcess
from .integer_form import integer_form
from .no_amx import NO_AMX_SCRIPT
from .venvs import environment

NO_AMX = "-noamx"
"""Ending of the names of peers that run without AMX."""


@dataclass(frozen=True, slots=True)
class LoadedPeer:
    """A peer with one level's weights loaded. name: with its version; error: of its output, relative to torch's."""

    name: str
    run: Run
    error: float


@dataclass(frozen=True, slots=True)
class PeerFiles:
    """A level as a peer gets it: an ordinary ONNX model, zeros and all; the input and more inputs as .npy files."""

    zeros: Path
    image: Path
    calibration: Path


Command = Callable[[str, Path], list[str]]


def worker_command(peer: str, folder: Path) -> list[str]:
    """The command of `peer`'s worker, in its environment under `folder`, which is made if it is not there yet.

    A peer called "…-noamx" runs without AMX.
    """
    python = str(environment(peer.partition("-")[0], folder))
    command = [python, str(WORKER), peer.removesuffix(NO_AMX)]
    return [python, str(NO_AMX_SCRIPT), *command] if peer.endswith(NO_AMX) else command


def measure_peers(
    specs: Sequence[Spec],
    rounds: int,
    cache: ModelCache,
    folder: Path,
    command: Command = worker_command,
) -> list[Row]:
    """All peers and our levels take turns. A peer that cannot be set up, loads nothing or disagrees is left out.

    Its row gives the reason. Raises BenchError: our own side fails.
    """
    first = specs[0]
    built = cache.built(first.network, first.pattern, first.levels, values=first.values)
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        peers: dict[str, LoadedPeer] = {}
        for spec in specs:
            try:
                peers[spec.name] = _open(spec, built, cache, lambda peer: command(peer, folder), stack)
            except Exception as error:  # any failure of a peer is a line of the report
                failures[spec.name] = str(error) or repr(error)
        session = stack.enter_context(Session(built.path, threads=first.threads, spin=True))
        ours = {spec.level: our_run(session, built, spec.level) for spec in specs if spec.name in peers}
        errors = {
            level: verified(_name(level), run(), built.expected[level], tolerance_of(first.values))
            for level, run in ours.items()
        }
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
    start = command(spec.peer)
    files = _files(spec, built, cache)
    model = _peers_model(spec.peer, files.zeros, built, cache)
    process = stack.enter_context(PeerProcess(spec.peer, start, spec.threads))
    process.load(model, files.image, files.calibration)
    name = f"{process.name}, without AMX" if spec.peer.endswith(NO_AMX) else process.name
    error = verified(name, process.output(), built.expected[spec.level], tolerance_of(spec.values))
    return LoadedPeer(name, process.run, error)


def _peers_model(peer: str, zeros: Path, built: Built, cache: ModelCache) -> Path:
    """The model in the form that the peer runs best. MNN quantises a float32 model itself: it cannot read QDQ nodes."""
    if INT8 not in peer or peer.startswith("mnn"):
        return zeros
    shape = built.feed["input"].shape
    if peer.startswith("deepsparse"):
        return cache.once(
            ("integer form", zeros), lambda: integer_form(quantised_statically(zeros, shape, per_channel=False))
        )
    return cache.once(("qdq", zeros), lambda: quantised_statically(zeros, shape))


def _files(spec: Spec, built: Built, cache: ModelCache) -> PeerFiles:
    """Made once for each level of `built`."""

    def make() -> PeerFiles:
        import torch

        folder = cache.folder()
        files = PeerFiles(folder / "zeros.onnx", folder / "input.npy", folder / "calibration.npy")
        image = built.feed["input"]
        twin = with_zeros(built.model, built.net, spec.level)
        export_dense(twin, torch.from_numpy(image), files.zeros, plain=True)
        np.save(files.image, image)
        np.save(files.calibration, np.stack(calibration_images(image.shape)))
        return files

    return cache.once(("peer files", built.path, spec.level), make)
