"""Neighbours: the share of the machine that other processes use, by given readings."""

from __future__ import annotations

import time

from nested_sparse.serving.bench.neighbours import CpuSeconds, Neighbours, read_cpu_seconds


def neighbours(*readings):
    given = iter(CpuSeconds(*reading) for reading in readings)
    return Neighbours(lambda: next(given))


def test_time_that_is_not_ours_belongs_to_others():
    """In ten seconds 18 were used, 10 of them by our processes."""
    assert neighbours((100.0, 500.0, 30.0), (110.0, 518.0, 40.0)).cores() == 0.8


def test_rounding_never_makes_the_time_of_others_negative():
    assert neighbours((0.0, 5.0, 5.0), (1.0, 5.9, 6.0)).cores() == 0.0


def test_our_own_work_is_seen_as_ours():
    begin = read_cpu_seconds()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    now = read_cpu_seconds()
    assert now.own - begin.own >= 0.25
    assert now.busy - begin.busy >= 0.1  # the system counts by the tick, some leave out what a hypervisor stole
    assert now.at > begin.at
