"""Co-runners: processes that work and rest on command, and end with the process that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nested_sparse.errors import BenchError
from nested_sparse.serving.bench.serving.co_runner import BURN, KINDS, STREAM, BusyProcesses, co_runner, stream_bytes
from nested_sparse.serving.bench.serving.quota import PERIOD_US, Quota

LIMIT_S = 120.0

ORPHANS = """
import sys, time
from nested_sparse.serving.bench.serving.co_runner import BURN, BusyProcesses
runner = BusyProcesses(BURN, 2)
runner.start() if sys.argv[1] == "working" else None
print(*(process.pid for process in runner.processes), flush=True)
time.sleep(60)
"""


def wait_until(condition) -> bool:
    end_s = time.monotonic() + LIMIT_S
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.01)
    return bool(condition())


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(("script", "arguments"), [(BURN, []), (STREAM, [str(1 << 16)])])
def test_a_co_runner_works_between_start_and_stop_only(script, arguments):
    """Stopped when made, running when started, stopped again, gone with the context."""
    with BusyProcesses(script, 1, arguments) as runner:
        process = psutil.Process(runner.processes[0].pid)
        assert wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
        rested_s = sum(process.cpu_times()[:2])
        runner.start()
        assert wait_until(lambda: sum(process.cpu_times()[:2]) > rested_s)
        runner.stop()
        assert wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
    assert gone(process.pid)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a stopped process ends with its parent on Linux only")
@pytest.mark.parametrize("state", ["working", "stopped"])
def test_a_co_runner_ends_with_its_parent(state):
    """Though the parent is killed and cannot clean up."""
    with subprocess.Popen([sys.executable, "-c", ORPHANS, state], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert wait_until(lambda: all(gone(pid) for pid in pids))


def test_one_that_cannot_start_is_an_error_and_leaves_nothing():
    with pytest.raises(BenchError, match="ended at once"):
        BusyProcesses("raise SystemExit(3)\n", 2)
    with pytest.raises(BenchError, match="no co-runner 'gpu'; there are none, cpu, memory, quota"):
        co_runner("gpu", [])
    assert "none" in KINDS


def test_a_stream_is_larger_than_the_last_cache(tmp_path: Path):
    for index, size in enumerate(("48K", "2048K", "33M")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}/size").write_text(size + "\n")
    assert stream_bytes(tmp_path) == 2 * (33 << 20)
    assert stream_bytes(tmp_path / "absent") == 32 << 20


@pytest.fixture
def cgroups(tmp_path: Path) -> Path:
    """A machine with cgroup version 1 and the CPU controller in a folder of its own."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("3:cpu:/box\n")
    own = tmp_path / "sys/fs/cgroup/cpu/box"
    own.mkdir(parents=True)
    (own / "cpu.cfs_quota_us").write_text("-1")
    return tmp_path


def test_a_quota_moves_the_servers_in_and_out(cgroups: Path):
    """Half a core, by version 1's files; the process is there between start and stop only."""
    own = cgroups / "sys/fs/cgroup/cpu/box"
    with Quota([4711], 0.5, cgroups) as quota:
        (folder,) = [path for path in own.iterdir() if path.is_dir()]
        assert (folder / "cpu.cfs_period_us").read_text() == str(PERIOD_US)
        assert (folder / "cpu.cfs_quota_us").read_text() == str(PERIOD_US // 2)
        quota.start()
        assert (folder / "cgroup.procs").read_text() == "4711"
        quota.stop()
        assert (own / "cgroup.procs").read_text() == "4711"


def test_a_quota_that_is_not_allowed_says_so(tmp_path: Path, cgroups: Path):
    with pytest.raises(BenchError, match="not allowed here: the server is not ours"):
        Quota([], 0.5, cgroups)
    (cgroups / "proc/self/cgroup").write_text("0::/\n")
    with pytest.raises(BenchError, match="not allowed here: no cgroup of this process has the CPU controller"):
        Quota([os.getpid()], 0.5, cgroups)
