"""measure_resident: what a checkpoint holds in memory at its levels, measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nested_sparse.errors import KernelError
from nested_sparse.excerpt import excerpt

from ..session import Session, anonymous_bytes, random_inputs, return_freed

RUNS = 3
"""Runs at a level before its memory is read: what is allocated once has been by then."""
_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class State:
    """segments_bytes: per level, as Session.resident_bytes(). anonymous_bytes: of the process, what no file backs."""

    segments_bytes: tuple[int, ...]
    anonymous_bytes: int

    def over(self, base: State) -> int:
        """Resident bytes: the weights, and the anonymous memory that came since `base`."""
        return sum(self.segments_bytes) + max(0, self.anonymous_bytes - base.anonymous_bytes)


@dataclass(frozen=True, slots=True)
class Resident:
    """What one process held: when just loaded, after level 0 alone, after the densest, after shrinking.

    activations_bytes: growth of anonymous memory by the level 0 runs of a process that had not run denser: activations,
    the kernels' working memory, and what is kept for the next run. share_bytes: the file's share of level 0, its graph
    included. shrunk_bytes: the weights' resident pages and the anonymous memory over `loaded`, after the densest level
    ran, the resident level was set to 0 and level 0 ran again. ratio: of that to share and activations.
    """

    batch: int
    share_bytes: int
    activations_bytes: int
    shrunk_bytes: int
    ratio: float
    loaded: State
    sparsest: State
    densest: State
    shrunk: State


def measure_resident(path: str | os.PathLike[str], *, batch: int = 1, threads: int = 1) -> Resident:
    """Measure `path` in a fresh process. Raises KernelError where that fails, or where there is no /proc to read."""
    command = [
        sys.executable,
        "-m",
        "nested_sparse.runtime.profiling.resident",
        os.fspath(path),
        str(batch),
        str(threads),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise KernelError(
            f"{path}: measuring what is resident took over {_LIMIT_S:g} s; give a smaller batch"
        ) from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise KernelError(f"{path}: what is resident could not be measured: {excerpt(last)}")
    found = json.loads(done.stdout)
    names = ("loaded", "sparsest", "densest", "shrunk")
    states = {name: State(tuple(found[name]["segments_bytes"]), int(found[name]["anonymous_bytes"])) for name in names}
    return Resident(**(found | states))


def _measure(path: Path, batch: int, threads: int) -> Resident:
    with Session(path, threads=threads) as session:
        inputs = random_inputs(session.inputs, batch)
        _state(session)  # once for what reading it allocates
        loaded = _state(session)
        states: list[State] = []
        for level in (0, -1, 0):
            if states and level == 0:
                session.resident_level = 0
            for _ in range(RUNS):
                session.run(inputs, level)
            states.append(_state(session))
        sparsest, densest, shrunk = states
        share_bytes = session.levels[0].nbytes
    activations_bytes = max(0, sparsest.anonymous_bytes - loaded.anonymous_bytes)
    shrunk_bytes = shrunk.over(loaded)
    return Resident(
        batch=batch,
        share_bytes=share_bytes,
        activations_bytes=activations_bytes,
        shrunk_bytes=shrunk_bytes,
        ratio=shrunk_bytes / (share_bytes + activations_bytes),
        loaded=loaded,
        sparsest=sparsest,
        densest=densest,
        shrunk=shrunk,
    )


def _state(session: Session) -> State:
    return_freed()  # of all states alike: what is kept for later is not what a level needs
    segments, anonymous = session.resident_bytes(), anonymous_bytes()
    if segments is None or anonymous is None:
        raise KernelError("this system does not tell what is resident: /proc/self/pagemap and status are needed")
    return State(segments, anonymous)


def _main(arguments: Sequence[str]) -> None:
    path, batch, threads = arguments
    print(json.dumps(asdict(_measure(Path(path), int(batch), int(threads)))))


if __name__ == "__main__":
    _main(sys.argv[1:])
