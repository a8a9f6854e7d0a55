"""Probes: readings of cgroups, pressure, temperature and battery from folders made here."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from planted import plant

from nested_sparse.runtime.resources import probes
from nested_sparse.runtime.resources.monitor import ResourceMonitor, ResourceSample

PSI = "some avg10=1.50 avg60=0.28 avg300=0.13 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"


V2 = {
    "proc/self/cgroup": "0::/app.slice/me\n",
    "sys/fs/cgroup/cpu.stat": "usage_usec 1\n",
    "sys/fs/cgroup/app.slice/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/app.slice/me/cpu.max": "max 100000\n",
    "sys/fs/cgroup/app.slice/me/cpu.stat": "usage_usec 5\nnr_periods 10\nnr_throttled 2\nthrottled_usec 4000\n",
    "sys/fs/cgroup/app.slice/me/memory.max": "1000000\n",
    "sys/fs/cgroup/app.slice/me/memory.current": "700000\n",
    "sys/fs/cgroup/app.slice/me/memory.stat": "anon 1\ninactive_file 100000\n",
    "proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n",
}
V1 = {
    "proc/self/cgroup": "4:memory:/box\n2:cpu,cpuacct:/box\n0::/\n",
    "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "50000\n",
    "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/cpu,cpuacct/box/cpu.stat": "nr_periods 3\nnr_throttled 1\nthrottled_time 2000000\n",
    "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "2000000\n",
    "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "500000\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
}


def test_cgroup_v2(tmp_path: Path) -> None:
    """The tightest quota above us counts, page cache that can go counts as free."""
    root = plant(tmp_path, V2)
    assert probes.cpu_quota(root) == 1.5
    assert probes.throttling(root) == {"throttled_us": 4000.0}
    assert probes.memory(root) == {"memory_limit_bytes": 1_000_000.0, "available_memory_bytes": 400_000.0}


def test_cgroup_v1(tmp_path: Path) -> None:
    """Controllers mounted together, nanoseconds, and no limit written as a huge number."""
    root = plant(tmp_path, V1)
    assert probes.cpu_quota(root) == 0.5
    assert probes.usable_cores(root) == 1
    assert probes.throttling(root) == {"throttled_us": 2000.0}
    with pytest.raises(OSError, match="meminfo"):
        probes.memory(root)
    plant(root, {"proc/meminfo": "MemAvailable: 1000 kB\n"})
    assert probes.memory(root) == {"memory_limit_bytes": 2_000_000.0, "available_memory_bytes": 1_024_000.0}


def test_container_whose_path_is_not_mounted(tmp_path: Path) -> None:
    """/proc names a path outside of the container: the mount's own files hold the limits."""
    root = plant(tmp_path, {"proc/self/cgroup": "0::/../../docker/abc\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"})
    assert probes.cpu_quota(root) == 2.0


def test_no_cgroup_is_no_quota(tmp_path: Path) -> None:
    """Without cgroups the affinity alone counts."""
    assert probes.usable_cores(tmp_path) == len(os.sched_getaffinity(0))
    plant(tmp_path, {"proc/self/cgroup": "\n"})
    assert probes.cpu_quota(tmp_path) == math.inf


def test_pressure_is_the_total_of_some(tmp_path: Path) -> None:
    """The total of "some", per resource."""
    root = plant(
        tmp_path, {f"proc/pressure/{each}": PSI.format(i) for i, each in enumerate(("cpu", "memory", "io"), 5)}
    )
    assert probes.pressure(root) == {"cpu_stall_us": 5.0, "memory_stall_us": 6.0, "io_stall_us": 7.0}


def test_steal_is_a_mean_over_the_cpus(tmp_path: Path) -> None:
    """300 ticks on two CPUs are 150 ticks of wall time."""
    root = plant(tmp_path, {"proc/stat": "cpu  1 2 3 4 5 6 7 300 0 0\ncpu0 1 2\ncpu1 1 2\nintr 5\n"})
    assert probes.steal(root) == {"steal_us": 150 * 1e6 / os.sysconf("SC_CLK_TCK")}


def test_frequency_is_the_mean_and_the_highest_possible(tmp_path: Path) -> None:
    """Mean now, highest possible, in MHz."""
    cpu = "sys/devices/system/cpu/cpu{}/cpufreq/{}"
    root = plant(
        tmp_path,
        {
            cpu.format(0, "scaling_cur_freq"): "1000000\n",
            cpu.format(1, "scaling_cur_freq"): "2000000\n",
            cpu.format(0, "cpuinfo_max_freq"): "3000000\n",
            cpu.format(1, "cpuinfo_max_freq"): "2500000\n",
        },
    )
    assert probes.frequency(root) == {"frequency_mhz": 1500.0, "max_frequency_mhz": 3000.0}
    assert probes.frequency(tmp_path / "nowhere") == {}


def test_temperature_is_the_hottest_readable_zone(tmp_path: Path) -> None:
    """A zone that gives nonsense does not hide the others."""
    zone = "sys/class/thermal/thermal_zone{}/temp"
    root = plant(tmp_path, {zone.format(0): "41500\n", zone.format(1): "garbage", zone.format(2): "39000"})
    assert probes.temperature(root) == {"temperature_celsius": 41.5}
    assert probes.temperature(tmp_path / "nowhere") == {}


def test_temperature_of_a_zone_that_lies(tmp_path: Path) -> None:
    """A broken zone does not hide the others; alone, it is told as it reads, for the monitor to refuse."""
    zone = "sys/class/thermal/thermal_zone{}/temp"
    root = plant(tmp_path, {zone.format(0): "3000000\n"})
    assert probes.temperature(root) == {"temperature_celsius": 3000.0}
    plant(root, {zone.format(1): "39000", zone.format(2): "-273000"})
    assert probes.temperature(root) == {"temperature_celsius": 39.0}


def test_battery_charge_is_read_and_the_mains_adapter_is_left_out(tmp_path: Path) -> None:
    """The mains adapter is no battery; a charge that is not told is left out."""
    supply = "sys/class/power_supply/{}/{}"
    root = plant(
        tmp_path,
        {
            supply.format("AC", "type"): "Mains",
            supply.format("BAT0", "type"): "Battery\n",
            supply.format("BAT0", "status"): "Discharging\n",
        },
    )
    assert probes.battery(root) == {"discharging": 1.0}
    plant(root, {supply.format("BAT0", "capacity"): "83\n"})
    assert probes.battery(root) == {"discharging": 1.0, "battery_percent": 83.0}
    assert probes.battery(tmp_path / "nowhere") == {}


def test_monitor_on_an_empty_machine(tmp_path: Path) -> None:
    """No /proc, no /sys: nothing but the cores is known, and nothing is raised."""
    sample = ResourceMonitor(probes.default_probes(tmp_path), lambda: 1.0).sample()
    assert sample == ResourceSample(1.0, usable_cores=len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("garbage", ["", "\n\n", "max", "some total=", "a b c d", "0::", "-1 0", "\x00\xff", "1e999 1"])
def test_monitor_on_garbage(tmp_path: Path, garbage: str) -> None:
    """Files of garbage give None or a value, never an exception."""
    names = {*V2, *V1, "proc/pressure/cpu", "proc/stat", "sys/class/thermal/thermal_zone0/temp"}
    names |= {"sys/class/power_supply/BAT0/type", "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"}
    cgroups = {"proc/self/cgroup": V1["proc/self/cgroup"] + V2["proc/self/cgroup"]}
    root = plant(tmp_path, dict.fromkeys(names, garbage) | cgroups)
    sample = ResourceMonitor(probes.default_probes(root), lambda: 1.0).sample()
    assert sample.usable_cores is None or sample.usable_cores >= 1
    assert probes.usable_cores(root) >= 1
