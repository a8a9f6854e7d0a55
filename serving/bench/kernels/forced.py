"""Forced rows: figures of a given instruction set. The library chooses it once, so another process measures them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from nested_sparse.errors import BenchError

from .row import Row, Spec

FORCE_ISA = "NESTED_SPARSE_FORCE_ISA"

RunCommand = Callable[[Sequence[str], Mapping[str, str]], str]


def measure_forced(specs: Sequence[Spec], rounds: int, run: RunCommand | None = None) -> list[Row]:
    """The rows of `specs`, which share an `isa`, measured by `bench kernels` in a process where it is forced.

    run: function that runs a command with environment variables added, and returns its stdout. Raises BenchError.
    """
    names = [argument for spec in specs for argument in ("--rows", spec.name)]
    repeats, threads = str(rounds), str(specs[0].threads)
    command = [sys.executable, "-m", "nested_sparse.serving.cli", "bench", "kernels", "--json", *names]
    output = (run or _run)([*command, "--repeats", repeats, "--threads", threads], {FORCE_ISA: specs[0].isa})
    try:
        lines = {line["name"]: line for line in json.loads(output.strip().splitlines()[-1])["rows"]}
        return [Row.from_json(spec, lines[spec.name]) for spec in specs]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise BenchError(
            f"the process with {FORCE_ISA}={specs[0].isa} printed no result that can be read ({error!r}): "
            f"{output[-200:]!r}"
        ) from None


def _run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it printed no error"])[-1]
        raise BenchError(f"the process with {dict(environment)} failed with exit code {done.returncode}: {last}")
    return done.stdout
