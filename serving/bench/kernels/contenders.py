"""Contenders: our levels and what they are held against, opened, verified, and timed in turns in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.runtime.profiling import layer_profile
from nested_sparse.runtime.session import Session
from nested_sparse.value_type import FLOAT32

from .dense import dense_session
from .int8 import INT8
from .model_cache import LINEAR, Built, ModelCache
from .row import ALONE, DENSE, DENSE_INT8, OURS, Row, Spec, speedup
from .turns import INT8_TOLERANCE, Tolerance, interleaved, timed, tolerance_of, verified

_KERNEL_RUNS = 3
_LIMITED = "ONNX Runtime chooses MLAS's kernels by CPU detection and has no option or environment variable that limits "
NO_AVX2_LIMIT = f"{_LIMITED}float32 to AVX2, so the dense side used all that this CPU has"
AWAKE = "threads of both sides wait awake between layers; ours do with `--spin`"
NOTES = {
    ALONE: "measured: time in the whole file / time alone",
    "float16": "float16 is compared with torch on the rounded weights",
    INT8: f"int8 is compared with torch in float32: up to {INT8_TOLERANCE.most:g} of {INT8_TOLERANCE.unit}, for random "
    "weights",
}


@dataclass(frozen=True, slots=True)
class Contender:
    """One side of a row. name: as the row names it. error: of its output (Tolerance)."""

    name: str
    run: Callable[[], NDArray[Any]]
    error: float


def measure_contenders(specs: Sequence[Spec], cache: ModelCache, rounds: int) -> list[Row]:
    """The rows of `specs`, which share a setting. Raises BenchError: an output disagrees with torch."""
    with ExitStack() as stack:
        arena = _Arena(cache, specs[0], stack)
        ours = {spec.name: arena.ours(spec.levels, spec.level, spec.values) for spec in specs}
        others = {spec.name: arena.other(spec) for spec in specs}
        every = {contender.name: contender for contender in (*ours.values(), *others.values())}
        samples = interleaved({name: timed(contender.run) for name, contender in every.items()}, rounds)
    return [_row(spec, ours[spec.name], others[spec.name], samples, arena) for spec in specs]


class _Arena:
    """Opens each contender once."""

    def __init__(self, cache: ModelCache, first: Spec, stack: ExitStack) -> None:
        self._cache = cache
        self._first = first
        self._stack = stack
        self._sessions: dict[Path, Session] = {}
        self._opened: dict[str, Contender] = {}
        self.isa = ""

    def built(self, levels: tuple[float, ...], values: str) -> Built:
        """The model that runs, with these levels, stored as `values`."""
        first = self._first
        return self._cache.built(first.network, first.pattern, levels, batch=first.batch, values=values)

    def ours(self, levels: tuple[float, ...], level: int, values: str) -> Contender:
        """Our level of the file with these levels."""
        built = self.built(levels, values)
        if built.path not in self._sessions:
            # awake between layers, as ONNX Runtime's threads are by default
            session = self._stack.enter_context(Session(built.path, threads=self._first.threads, spin=True))
            self._sessions[built.path], self.isa = session, session.isa
        run = our_run(self._sessions[built.path], built, level)
        name = f"ours in {values}, level {level} of {len(levels)}"
        return self._open(name, run, built.expected[level], tolerance_of(values))

    def other(self, spec: Spec) -> Contender:
        """The other side of the row of `spec`."""
        if spec.against == OURS:
            return self.ours(spec.levels, spec.level, FLOAT32.name)
        if spec.against == ALONE:
            return self.ours(spec.levels[: spec.level + 1], spec.level, spec.values)
        int8 = spec.against == DENSE_INT8
        dense = self._cache.dense(spec.network, batch=spec.batch, values=INT8 if int8 else FLOAT32.name)
        built = self.built(spec.levels, spec.values)
        run = partial(dense_output, dense_session(dense.path, spec.threads), built)
        ranges = " of run-time ranges" if spec.network == LINEAR else ", static, per channel"
        name = f"ONNX Runtime dense {INT8 + ranges if int8 else 'float32'}, {spec.threads} thread(s)"
        return self._open(name, run, dense.expected, tolerance_of(INT8 if int8 else FLOAT32.name))

    def _open(
        self, name: str, run: Callable[[], NDArray[Any]], expected: NDArray[Any], tolerance: Tolerance
    ) -> Contender:
        if name not in self._opened:
            self._opened[name] = Contender(name, run, verified(name, run(), expected, tolerance))
        return self._opened[name]


def _row(spec: Spec, ours: Contender, other: Contender, samples: dict[str, list[float]], arena: _Arena) -> Row:
    ours_ms, other_ms = samples[ours.name], samples[other.name]
    notes = [NOTES.get(spec.against, ""), NOTES.get(spec.values, ""), AWAKE if spec.threads > 1 else ""]
    if spec.isa == "avx2" and spec.against in (DENSE, DENSE_INT8):
        notes.append(NO_AVX2_LIMIT)
    return Row(
        spec,
        against=other.name,
        measured=speedup(other_ms, ours_ms) if spec.against == ALONE else speedup(ours_ms, other_ms),
        ours_ms=ours_ms,
        reference_ms=other_ms,
        kernel=kernels_that_ran(arena.built(spec.levels, spec.values).path, spec),
        isa=arena.isa,
        max_error=ours.error,
        reference_error=other.error,
        note="; ".join(note for note in notes if note),
    )


def our_run(session: Session, built: Built, level: int) -> Callable[[], NDArray[Any]]:
    """A function that runs one inference at `level` and returns its output."""
    return partial(_output, session, built, level)


def dense_output(dense: Any, built: Built) -> NDArray[Any]:
    """Run one inference of `dense`, a session of ONNX Runtime alone; returns its output."""
    output: NDArray[Any] = dense.run(None, built.feed)[0]
    return output


def _output(session: Session, built: Built, level: int) -> NDArray[Any]:
    return session.run(built.feed, level)["output"]


def kernels_that_ran(path: Path, spec: Spec) -> str:
    """Names of our kernels in a profiled run of the row's level, the one with the most time first."""
    with Checkpoint.open(path, verify=False) as checkpoint:
        ours = {layer.name for layer in checkpoint.layers}
    spent_ms: dict[str, float] = {}
    for node in layer_profile(path, spec.level, _KERNEL_RUNS, threads=spec.threads, batch=spec.batch, spin=True):
        if node.layer in ours:
            spent_ms[node.kernel] = spent_ms.get(node.kernel, 0.0) + node.ms
    return ", ".join(sorted(spent_ms, key=lambda name: -spent_ms[name]))
