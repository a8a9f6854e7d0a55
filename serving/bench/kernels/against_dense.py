"""Dense rows: levels of a checkpoint against dense ONNX Runtime on the same work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.runtime.profiling import layer_profile
from nested_sparse.runtime.session import Session

from .dense import dense_session
from .model_cache import Built
from .row import Row, Spec, speedup
from .turns import interleaved, timed, verified

DENSE = "ONNX Runtime dense float32"
_KERNEL_RUNS = 3
NO_AVX2_LIMIT = (
    "ONNX Runtime chooses MLAS's kernels by CPU detection and has no option or environment variable that limits "
    "float32 to AVX2, so the dense side used all that this CPU has"
)


def measure_against_dense(specs: Sequence[Spec], built: Built, rounds: int) -> list[Row]:
    """The rows of `specs`, which share a setting: levels of `built` take turns with its dense twin.

    Raises BenchError: an output disagrees with torch.
    """
    threads = specs[0].threads
    dense = dense_session(built.dense_path, threads)
    with Session(built.path, threads=threads) as session:
        reference = partial(dense_output, dense, built)
        reference_error = verified("dense", reference(), built.dense_expected)
        ours = {spec.name: our_run(session, built, spec.level) for spec in specs}
        errors = {spec.name: verified(spec.name, ours[spec.name](), built.expected[spec.level]) for spec in specs}
        samples = interleaved({"dense": timed(reference), **{name: timed(run) for name, run in ours.items()}}, rounds)
        isa = session.isa
    return [
        Row(
            spec,
            against=f"{DENSE}, {threads} thread(s)",
            measured=speedup(samples[spec.name], samples["dense"]),
            ours_ms=samples[spec.name],
            reference_ms=samples["dense"],
            kernel=kernels_that_ran(built.path, spec),
            isa=isa,
            max_error=errors[spec.name],
            reference_error=reference_error,
            note=NO_AVX2_LIMIT if spec.isa == "avx2" else "",
        )
        for spec in specs
    ]


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
    for node in layer_profile(path, spec.level, _KERNEL_RUNS, threads=spec.threads, batch=spec.batch):
        if node.layer in ours:
            spent_ms[node.kernel] = spent_ms.get(node.kernel, 0.0) + node.ms
    return ", ".join(sorted(spent_ms, key=lambda name: -spent_ms[name]))
