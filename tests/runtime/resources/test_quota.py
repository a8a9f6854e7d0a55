"""CpuQuota: the period and the stops of a quota, read from trees like those of the kernel."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from planted import plant

from nested_sparse.runtime.resources import CpuQuota, QuotaReading
from nested_sparse.runtime.resources.probes import usable_cores
from nested_sparse.runtime.resources.quota import LOOK_S

V2 = {
    "proc/self/cgroup": "0::/app/me\n",
    "sys/fs/cgroup/cpu.stat": "usage_usec 1\n",
    "sys/fs/cgroup/app/cpu.max": "200000 50000\n",
    "sys/fs/cgroup/app/cpu.stat": "nr_periods 9\nnr_throttled 9\nthrottled_usec 4\n",
    "sys/fs/cgroup/app/me/cpu.max": "10000 20000\n",
    "sys/fs/cgroup/app/me/cpu.stat": "usage_usec 5\nnr_periods 10\nnr_throttled 2\nthrottled_usec 4000\n",
}
OWN = 1.5
"""CPU time of this process, where the group does not tell its own."""
V1 = {
    "proc/self/cgroup": "3:cpu,cpuacct:/box\n",
    "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "50000\n",
    "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/cpu,cpuacct/box/cpu.stat": "nr_periods 3\nnr_throttled 1\nthrottled_time 2000000\n",
}


def test_the_tightest_quota_counts(tmp_path: Path) -> None:
    """Version 2: the group's own 0.5 cores, not the 4 of the one above."""
    assert CpuQuota(plant(tmp_path, V2))() == QuotaReading(20.0, 10.0, 0.005, 2)


def test_version_1(tmp_path: Path) -> None:
    """Quota and period are files of their own."""
    used = {"sys/fs/cgroup/cpu,cpuacct/box/cpuacct.usage": "7000000\n"}
    assert CpuQuota(plant(tmp_path, {**V1, **used}))() == QuotaReading(100.0, 50.0, 7.0, 1)


def test_a_group_that_does_not_tell_its_cpu_time(tmp_path: Path) -> None:
    """Version 1 with its accounts elsewhere: the CPU time of this process stands for it."""
    first, then = CpuQuota(plant(tmp_path, V1))(), time.process_time() * 1e3
    assert first is not None
    assert first.stops == 1
    assert 0.0 < first.used_ms <= then


def test_the_folders_are_found_again(tmp_path: Path) -> None:
    """In another cgroup at once, and where the controller comes to ours a little later."""
    now_s = 10.0
    root = plant(tmp_path, {"proc/self/cgroup": "0::/app\n", "sys/fs/cgroup/app/cpu.stat": "usage_usec 1\n"})
    quota = CpuQuota(root, clock=lambda: now_s)
    assert quota() is None
    plant(tmp_path, {"sys/fs/cgroup/app/cpu.max": "30000 100000\n"})
    now_s += LOOK_S
    reading = quota()
    assert reading is not None
    assert (reading.period_ms, reading.quota_ms) == (100.0, 30.0)
    plant(tmp_path, V2)
    assert quota() == QuotaReading(20.0, 10.0, 0.005, 2)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"sys/fs/cgroup/app/me/cpu.max": "max 100000\n", "sys/fs/cgroup/app/cpu.max": "max 100000\n"}, None),
        ({"sys/fs/cgroup/app/me/cpu.max": "10000\n"}, None),
        ({"sys/fs/cgroup/app/me/cpu.max": "ten 20000\n"}, None),
        ({"sys/fs/cgroup/app/me/cpu.max": "10000 0\n"}, None),
        ({"sys/fs/cgroup/app/me/cpu.max": "10000 inf\n"}, None),
        ({"sys/fs/cgroup/app/me/cpu.max": "10000 -5\n"}, None),
        ({"sys/fs/cgroup/app/me/cpu.max": "inf 100000\n"}, None),
        ({"sys/fs/cgroup/app/me/cpu.max": "nan 100000\n"}, None),
        ({"sys/fs/cgroup/app/me/cpu.max": "0 100000\n"}, None),
        ({"sys/fs/cgroup/app/me/cpu.stat": ""}, QuotaReading(20.0, 10.0, OWN, None)),
        ({"sys/fs/cgroup/app/me/cpu.stat": "nr_throttled two\n"}, QuotaReading(20.0, 10.0, OWN, None)),
        ({"sys/fs/cgroup/app/me/cpu.stat": "a line of more words\n"}, QuotaReading(20.0, 10.0, OWN, None)),
    ],
)
def test_odd_files(
    tmp_path: Path, changed: dict[str, str], expected: QuotaReading | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file of a cgroup makes it raise, nor the number of threads that is read from it."""
    monkeypatch.setattr(time, "process_time", lambda: OWN / 1e3)
    root = plant(tmp_path, {**V2, **changed})
    assert CpuQuota(root)() == expected
    assert usable_cores(root) >= 1


def test_no_cgroup(tmp_path: Path) -> None:
    """An empty tree has no quota."""
    assert CpuQuota(tmp_path)() is None
