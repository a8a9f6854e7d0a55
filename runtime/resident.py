"""Resident: the memory that a model really takes, measured in processes of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nested_sparse.errors import InputError, NestedSparseError
from nested_sparse.runtime.session import Session
from nested_sparse.runtime.tensors import fixed_batch, random_inputs

RUNS = 5


def mapped_rss_bytes(path: Path) -> int:
    """Bytes of the mappings of `path` that this process has resident, by /proc/self/smaps. Raises InputError."""
    total, ours = 0, False
    try:
        lines = Path("/proc/self/smaps").read_text().splitlines()
    except OSError as error:
        raise InputError(f"resident memory cannot be told on this system ({error.strerror or error})") from None
    for line in lines:
        head = line.split(maxsplit=5)
        if "-" in head[0] and not head[0].endswith(":"):
            ours = len(head) == 6 and head[5] == str(path)
        elif ours and line.startswith("Rss:"):
            total += int(head[1]) * 1024
    return total


def anonymous_bytes() -> int:
    """Bytes of this process's own memory that are resident. Raises InputError where nobody tells."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    raise InputError("resident memory cannot be told on this system (no RssAnon in /proc/self/status)")


@dataclass(frozen=True, slots=True)
class Taken:
    """What a model takes: pages of its file in this process, and what its runs added to the process's own memory."""

    file_bytes: int
    run_bytes: int

    @property
    def total_bytes(self) -> int:
        """Both."""
        return self.file_bytes + self.run_bytes


@dataclass(frozen=True, slots=True)
class ResidentMemory:
    """lowest: of a process that ran level 0 only. densest: after the densest level. shrunk: and then shrunk to level 0.

    share_bytes: what the file holds for level 0, the graph included; activations_bytes: run_bytes of `lowest`.
    """

    share_bytes: int
    lowest: Taken
    densest: Taken
    shrunk: Taken

    @property
    def activations_bytes(self) -> int:
        """What runs of level 0 take beside the file."""
        return self.lowest.run_bytes

    @property
    def ratio(self) -> float:
        """What is resident after shrinking, as a multiple of level 0's share plus its activations."""
        return self.shrunk.total_bytes / (self.share_bytes + self.activations_bytes)


def measure_resident(path: Path, batch: int = 1) -> ResidentMemory:
    """Measure in two fresh processes, so that nothing else's memory counts. Raises NestedSparseError."""
    lowest = _child(path, batch, "lowest")
    both = _child(path, batch, "both")
    return ResidentMemory(
        share_bytes=both["share_bytes"],
        lowest=Taken(**lowest["lowest"]),
        densest=Taken(**both["densest"]),
        shrunk=Taken(**both["shrunk"]),
    )


def _child(path: Path, batch: int, what: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "nested_sparse.runtime.resident", str(path), str(batch), what]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if ended.returncode:
        raise NestedSparseError(f"{path}: its memory could not be measured: {ended.stderr.strip()[-300:]}")
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def _measure(path: Path, batch: int, what: str) -> dict[str, object]:
    """The child's part."""
    with Session(path, threads=1) as session:
        batch = fixed_batch(session.inputs) or batch
        inputs = random_inputs(session.inputs, batch)
        before_bytes = anonymous_bytes()

        def taken() -> dict[str, int]:
            return asdict(Taken(mapped_rss_bytes(path.resolve()), max(anonymous_bytes() - before_bytes, 0)))

        def run(level: int) -> None:
            for _ in range(RUNS):
                session.run(inputs, level)

        session.shrink(0)
        if what == "lowest":
            run(0)
            return {"lowest": taken()}
        run(0)
        run(-1)
        densest = taken()
        session.shrink(0)
        run(0)
        return {"densest": densest, "shrunk": taken(), "share_bytes": session.levels[0].nbytes}


if __name__ == "__main__":
    print(json.dumps(_measure(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
