"""Monitor: samples from probes that may fail, hang or give absurd readings."""

from __future__ import annotations

import math
import threading

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nested_sparse.runtime.resources.monitor import ResourceMonitor, ResourceSample
from nested_sparse.runtime.scheduling.level_log import describe


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_counters_become_shares_of_the_time_between_samples() -> None:
    """50 ms of stall in 200 ms are 25 %; the first sample knows no share."""
    clock, stall = Clock(), {"cpu_stall_us": 1000.0}
    monitor = ResourceMonitor([lambda: stall], clock, min_interval_s=0.1)
    assert monitor.sample().cpu_stall_percent is None
    stall["cpu_stall_us"] += 50_000
    clock.now_s += 0.2
    assert monitor.sample().cpu_stall_percent == pytest.approx(25.0)


def test_sample_is_kept_for_the_interval() -> None:
    """Reading often costs nothing: the same object until the interval is over."""
    clock, calls = Clock(), []
    monitor = ResourceMonitor([lambda: calls.append(1) or {"usable_cores": 2}], clock, min_interval_s=0.5)
    first = monitor.sample()
    clock.now_s += 0.4
    assert monitor.sample() is first
    clock.now_s += 0.2
    assert monitor.sample() is not first
    assert len(calls) == 2


def test_gauges_have_the_fields_types() -> None:
    """Probes give floats, the sample has integers and booleans where they belong."""
    readings = {"usable_cores": 2.0, "discharging": 1.0, "available_memory_bytes": 1024.0, "temperature_celsius": 41.5}
    sample = ResourceMonitor([lambda: readings], Clock()).sample()
    assert (sample.usable_cores, sample.discharging, sample.available_memory_bytes) == (2, True, 1024)
    assert isinstance(sample.available_memory_bytes, int)
    assert sample.temperature_celsius == 41.5


@pytest.mark.parametrize("fault", [OSError("gone"), ValueError("garbage"), KeyError("x"), RuntimeError("driver")])
def test_failing_probe_is_left_out(fault: Exception) -> None:
    """One broken sensor does not take the others away."""

    def broken() -> dict[str, float]:
        raise fault

    sample = ResourceMonitor([broken, lambda: {"usable_cores": 4.0}], Clock()).sample()
    assert sample.usable_cores == 4


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["cpu_stall_us", "steal_us", "unknown", "frequency_mhz", "usable_cores"]), st.floats()
        ),
        max_size=8,
    )
)
def test_never_raises_and_shares_stay_in_range(readings: list[dict[str, float]]) -> None:
    """For any readings of the probes, sample() answers and percentages are within 0 to 100."""
    clock = Clock()
    monitor = ResourceMonitor([lambda: readings[0] if readings else {}], clock)
    while readings:
        clock.now_s += 1.0
        share = monitor.sample().cpu_stall_percent
        assert share is None or 0 <= share <= 100
        readings.pop(0)


def test_does_not_wait_for_a_thread_that_samples() -> None:
    """While a slow probe is read by one thread, another gets the last sample at once."""
    entered, leave = threading.Event(), threading.Event()

    def slow() -> dict[str, float]:
        entered.set()
        assert leave.wait(10)
        return {"usable_cores": 3.0}

    monitor = ResourceMonitor([slow], Clock())
    thread = threading.Thread(target=monitor.sample)
    thread.start()
    assert entered.wait(10)
    assert monitor.sample().usable_cores is None
    leave.set()
    thread.join()
    assert monitor.sample().usable_cores == 3


def test_default_probes_work_here() -> None:
    """The number of cores is known on every machine."""
    assert (ResourceMonitor().sample().usable_cores or 0) >= 1


def test_describe_names_the_causes_of_a_slow_machine() -> None:
    """Shares from 1 % on, heat, frequency, battery; silent where nothing is known."""
    sample = ResourceSample(0.0, cpu_stall_percent=37.4, steal_percent=0.2, temperature_celsius=81.0, discharging=True)
    assert describe(sample) == "cpu stall 37 %, 81 °C, on battery"
    assert describe(ResourceSample(0.0)) == ""
    rest = ResourceSample(
        0.0,
        memory_stall_percent=9.0,
        io_stall_percent=8.0,
        steal_percent=7.0,
        throttled_percent=6.0,
        usable_cores=2,
        frequency_mhz=900.0,
        battery_percent=12.0,
        discharging=True,
        available_memory_bytes=48 << 20,
    )
    assert describe(rest) == (
        "memory stall 9 %, io stall 8 %, steal 7 %, throttled 6 %, cores 2, 900 MHz, "
        "on battery at 12 %, 48 MiB available"
    )


@pytest.mark.parametrize(
    ("field", "absurd"),
    [
        ("temperature_celsius", 3000.0),
        ("temperature_celsius", -273.0),
        ("frequency_mhz", 0.0),
        ("available_memory_bytes", -1.0),
        ("battery_percent", 101.0),
        ("usable_cores", 0.0),
        ("discharging", 7.0),
        ("memory_limit_bytes", math.inf),
        ("max_frequency_mhz", math.nan),
    ],
)
def test_an_impossible_value_is_no_reading(field: str, absurd: float, caplog: pytest.LogCaptureFixture) -> None:
    """It is left out and said once; when the sensor comes to its senses it counts again."""
    clock, readings = Clock(), {field: absurd}
    monitor = ResourceMonitor([lambda: readings], clock)
    for _ in range(3):
        clock.now_s += 1.0
        assert getattr(monitor.sample(), field) is None
    assert sum(field in record.getMessage() for record in caplog.records) == 1
    readings[field] = 1.0
    clock.now_s += 1.0
    assert getattr(monitor.sample(), field) == 1


def test_counter_that_runs_backwards_is_no_share(caplog: pytest.LogCaptureFixture) -> None:
    """Neither 0 % nor 100 %; from the next sample on it counts again."""
    clock, stall = Clock(), {"memory_stall_us": 5e6}
    monitor = ResourceMonitor([lambda: stall], clock)
    monitor.sample()
    for total, share in ((1e6, None), (1.5e6, 50.0)):
        clock.now_s += 1.0
        stall["memory_stall_us"] = total
        assert monitor.sample().memory_stall_percent == share
    assert len(caplog.records) == 1
