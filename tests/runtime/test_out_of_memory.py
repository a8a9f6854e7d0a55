"""Out of memory: a run that does not fit, in a process with a bounded address space, has its own status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support import EXAMPLE

pytest.importorskip("resource", reason="this system has no bounds of address space")

# The bound leaves 40 MB above what the process has, of which a batch of 4000 at the densest level takes well over 100.
SCRIPT = """
import resource, sys
import numpy as np
from nested_sparse.errors import OutOfMemoryError
from nested_sparse.runtime.policy.fixed import FixedPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.scheduling.request import Request
from nested_sparse.runtime.scheduling.scheduler import Scheduler
from nested_sparse.runtime.session.session import Session

session = Session(sys.argv[1], threads=int(sys.argv[2]))
spec = session.inputs[0]
inputs = {size: {spec.name: np.ones((size, *spec.shape[1:]), np.float32)} for size in (1, 4000)}
last = len(session.levels) - 1
expected = session.run(inputs[1], last)
profile = LatencyProfile((1,), [[1.0]] * len(session.levels))
scheduler = Scheduler(session, profile, FixedPolicy(last, profile), default_slo_ms=600_000.0)
status = dict(line.split(":") for line in open("/proc/self/status") if ":" in line)
used = int(status["VmSize"].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20), resource.RLIM_INFINITY))
for turn in range(3):
    error = scheduler.submit(Request(inputs[4000])).exception(120)
    assert isinstance(error, OutOfMemoryError), repr(error)
    assert "[4000, " in str(error), error
    assert "smaller batch" in str(error), error
    for name, array in scheduler.submit(Request(inputs[1])).result(120).outputs.items():
        np.testing.assert_array_equal(array, expected[name])
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert len(next(iter(scheduler.submit(Request(inputs[4000])).result(120).outputs.values()))) == 4000
scheduler.close()
session.close()
print("went on")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the size of the process is read from /proc")
@pytest.mark.parametrize("threads", [1, 2])
def test_the_run_fails_and_the_next_ones_do_not(threads: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(EXAMPLE), str(threads)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
