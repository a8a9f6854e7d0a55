"""CpuQuota: the period and the stops of a quota, read from trees like those of the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import plant

from nested_sparse.runtime.resources import CpuQuota, QuotaReading
from nested_sparse.runtime.resources.probes import usable_cores

V2 = {
    "proc/self/cgroup": "0::/app/me\n",
    "sys/fs/cgroup/cpu.stat": "usage_usec 1\n",
    "sys/fs/cgroup/app/cpu.max": "200000 50000\n",
    "sys/fs/cgroup/app/cpu.stat": "nr_periods 9\nnr_throttled 9\nthrottled_usec 4\n",
    "sys/fs/cgroup/app/me/cpu.max": "10000 20000\n",
    "sys/fs/cgroup/app/me/cpu.stat": "usage_usec 5\nnr_periods 10\nnr_throttled 2\nthrottled_usec 4000\n",
}
V1 = {
    "proc/self/cgroup": "3:cpu,cpuacct:/box\n",
    "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "50000\n",
    "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/cpu,cpuacct/box/cpu.stat": "nr_periods 3\nnr_throttled 1\nthrottled_time 2000000\n",
}


def test_the_tightest_quota_counts(tmp_path: Path) -> None:
    """Version 2: the group's own 0.5 cores, not the 4 of the one above."""
    assert CpuQuota(plant(tmp_path, V2))() == QuotaReading(20.0, 2)


def test_version_1(tmp_path: Path) -> None:
    """Quota and period are files of their own."""
    assert CpuQuota(plant(tmp_path, V1))() == QuotaReading(100.0, 1)


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
        ({"sys/fs/cgroup/app/me/cpu.stat": ""}, QuotaReading(20.0, None)),
        ({"sys/fs/cgroup/app/me/cpu.stat": "nr_throttled two\n"}, QuotaReading(20.0, None)),
        ({"sys/fs/cgroup/app/me/cpu.stat": "a line of more words\n"}, QuotaReading(20.0, None)),
    ],
)
def test_odd_files(tmp_path: Path, changed: dict[str, str], expected: QuotaReading | None) -> None:
    """No file of a cgroup makes it raise, nor the number of threads that is read from it."""
    root = plant(tmp_path, {**V2, **changed})
    assert CpuQuota(root)() == expected
    assert usable_cores(root) >= 1


def test_no_cgroup(tmp_path: Path) -> None:
    """An empty tree has no quota."""
    assert CpuQuota(tmp_path)() is None
