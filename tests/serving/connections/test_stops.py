"""Stops: the time in which a quota stops the loop, told by its lateness and the count of stops, and the front."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from nested_sparse.runtime.resources import QuotaReading
from nested_sparse.serving.connections.front import INFER, Front, refusal
from nested_sparse.serving.connections.stops import LEAST_S, UNREAD_S, Stops

TAKEN = object()
DETAILS = SimpleNamespace(method=INFER, invocation_metadata=())


class Sensor:
    """A quota as the kernel counts it. asked: number of readings."""

    def __init__(self, stops: int | None = 0) -> None:
        self.stops, self.asked = stops, 0
        self.absent = False

    def __call__(self) -> QuotaReading | None:
        self.asked += 1
        return None if self.absent else QuotaReading(100.0, 50.0, 0.0, self.stops)


def test_late_and_counted_is_stopped() -> None:
    sensor = Sensor()
    stops = Stops(sensor)
    assert stops.look_every_s == pytest.approx(0.01)
    assert stops.stopped_s(10.0, 10.03) == 0.0
    sensor.stops = 1
    assert stops.stopped_s(10.03, 10.09) == pytest.approx(0.06)
    assert stops.stopped_s(10.03, 10.15) == 0.0


def test_what_was_told_is_not_told_again() -> None:
    """The tick is still late when it comes at last: only the time since the last look counts."""
    sensor = Sensor()
    stops = Stops(sensor)
    sensor.stops = 1
    assert stops.stopped_s(10.0, 10.06) == pytest.approx(0.06)
    sensor.stops = 2
    assert stops.stopped_s(10.0, 10.07) == pytest.approx(0.01)


def test_a_second_behind_one_stop_is_something_else() -> None:
    sensor = Sensor()
    stops = Stops(sensor)
    sensor.stops = 1
    assert stops.stopped_s(10.0, 11.0) == pytest.approx(0.1)


def test_a_loop_in_time_reads_nothing() -> None:
    sensor = Sensor()
    stops = Stops(sensor)
    for now_s in (10.0, 10.0 + LEAST_S / 2, 9.0):
        assert stops.stopped_s(10.0, now_s) == 0.0
    assert sensor.asked == 1


def test_without_a_quota_it_is_asked_once_a_second() -> None:
    sensor = Sensor()
    sensor.absent = True
    stops = Stops(sensor)
    assert stops.look_every_s == math.inf
    for number in range(100):
        assert stops.stopped_s(10.0 + 0.1 * number, 10.05 + 0.1 * number) == 0.0
    assert sensor.asked <= 2 + 10 / UNREAD_S
    sensor.absent, sensor.stops = False, 7
    assert stops.stopped_s(30.0, 30.05) == 0.0  # the first reading counts from nothing
    sensor.stops = 8
    assert stops.stopped_s(30.1, 30.15) == pytest.approx(0.05)


def test_a_count_that_is_not_known_is_no_stop() -> None:
    """Else each hiccup of a loop would pass for a stop, and overload would not be refused."""
    stops = Stops(Sensor(None))
    assert stops.stopped_s(10.0, 10.06) == 0.0


@pytest.mark.parametrize("first", ["call", "tick"])
@pytest.mark.parametrize(("counted", "taken"), [(True, True), (False, False)], ids=["stopped", "busy"])
def test_the_front_takes_calls_after_a_standstill(
    first: str, counted: bool, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 ms of an SLO of 150 in which the loop did nothing; with a count it was a stop, without one it is overload."""
    sensor, now_s = Sensor(), 10.0
    front = Front(SimpleNamespace(service=lambda _: TAKEN), 150.0, lambda: None, clock=lambda: now_s, quota=sensor)

    def plan(due_s: float) -> None:
        front._tick, front._tick_due_s = SimpleNamespace(cancel=lambda: None), due_s

    monkeypatch.setattr(front, "_tick_at", plan)
    monkeypatch.setattr(front, "_probe_if_due", lambda _: None)
    front.open("127.0.0.1:1")
    assert front.service(DETAILS) is TAKEN
    assert front._tick_due_s == pytest.approx(10.01)
    now_s = 10.11
    sensor.stops += counted
    if first == "tick" or not counted:
        front._on_tick()
    assert (front.service(DETAILS) is TAKEN) == taken
    front._on_tick()
    assert front.wait_s() == pytest.approx(0.1 if counted else 0.06)
    assert (front.service(DETAILS) is TAKEN) == taken


def test_a_refusal_tells_a_quota_from_overload() -> None:
    """The hint is the queue alone: the stop is over."""
    assert "CPU quota" not in refusal(60, 60).message
    told = refusal(60, 10).message
    assert "a new request waits 60 ms" in told
    assert "50 ms of them while the CPU quota" in told
    assert "retry after 10 ms" in told
