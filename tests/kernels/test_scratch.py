"""Scratch memory: a run whose threads cannot get working memory fails, but the process continues."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nested_sparse.kernels import library

pytest.importorskip("resource", reason="this system has no bounds of address space")

# Each of four groups of 16 rows is widened on its own: 8 MiB of scratch for each thread, after 8 MiB for the transposed
# inputs. The bound leaves room for the first and not for the second.
SCRIPT = """
import mmap
import resource
import sys
import numpy as np
from sparse_node import SparseModel, linear_node, tolerance
from nested_sparse.value_type import FLOAT16

rng = np.random.default_rng(0)
node = linear_node(rng, 131072, 64, 16, densities=(0.05,), value_type=FLOAT16)
model = SparseModel([node], threads=2)
x = rng.standard_normal((16, 131072), np.float32)
status = dict(line.split(":") for line in open("/proc/self/status") if ":" in line)
used = int(status["VmSize"].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
try:  # not from the allocator, which would keep what it tried
    mmap.mmap(-1, 1 << 31)
    sys.exit("not obeyed")
except OSError:
    failures = 0
for free in range(2 << 20, 64 << 20, 2 << 20):
    resource.setrlimit(resource.RLIMIT_AS, (used + free, resource.RLIM_INFINITY))
    try:
        y = model.run(x, 0)
        break
    except Exception as error:
        failures += "bad_alloc" in str(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert failures >= int(sys.argv[1]), failures
assert np.abs(y - node.dense(x, 0)).max() <= tolerance(node, 0, x)
print("went on")
"""


@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="its allocator ends a process without memory")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the size of the process is read from /proc")
def test_no_memory_in_a_thread_of_the_run() -> None:
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    # the scalar kernel widens nothing: there the transposed inputs alone do not fit
    least = "1" if library.isa() == "scalar" else "4"
    command = [sys.executable, "-c", SCRIPT, least]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    if done.stderr.strip() == "not obeyed":
        pytest.skip("this system, an emulator perhaps, obeys no bound of address space")
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
