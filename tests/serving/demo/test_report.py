"""Demo report: its counts of literal outcomes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nested_sparse.errors import CheckpointError
from nested_sparse.level import Level
from nested_sparse.serving.bench.serving.open_loop import Arrival, Outcome
from nested_sparse.serving.bench.serving.picture import draw, refuse_foreign_picture
from nested_sparse.serving.demo.plan import PHASES, make_plan
from nested_sparse.serving.demo.report import rows_of
from nested_sparse.serving.demo.run import level_table, shades_of, verdict

LABELS = [np.array([1, 0]), np.array([0, 0])]


def outcome(
    phase: str, item: int, status: str, latency_ms: float, level: int | None, logits: list[list[float]] | None
) -> Outcome:
    """One outcome, answered where logits are given."""
    output = None if logits is None else np.array(logits, np.float32)
    return Outcome(Arrival(0.0, item, phase), status, latency_ms, level, output)


def test_shed_and_late_requests_count_as_wrong() -> None:
    """Eight images offered, three right and in time: 3/8, whatever the late answer said."""
    right, wrong = [0.0, 1.0], [1.0, 0.0]
    outcomes = [
        outcome("quiet", 0, "ok", 5.0, 1, [right, right]),  # one of two right
        outcome("quiet", 1, "ok", 7.0, 0, [wrong, wrong]),  # both right: the class is 0
        outcome("burst", 0, "late", 90.0, 1, [right, wrong]),
        outcome("burst", 1, "shed", 1.0, None, None),
    ]
    rows = {row.phase: row for row in rows_of("elastic", outcomes, LABELS)}
    assert rows["all"].offered == 4
    assert rows["all"].attainment == 0.5
    assert rows["all"].accuracy == 3 / 8
    assert rows["quiet"].accuracy == 3 / 4
    assert rows["burst"].accuracy == 0.0
    assert (rows["burst"].shed, rows["burst"].late, rows["burst"].errors) == (1, 1, 0)
    assert rows["all"].levels == {0: 1, 1: 2}
    assert rows["all"].p50_ms == 7.0
    assert rows["co-runner"].offered == 0


def test_the_verdict_says_so_when_a_fixed_level_wins() -> None:
    """The sentence names the fixed level that is better than elastic."""
    right = [[0.0, 1.0], [1.0, 0.0]]
    int8 = rows_of("elastic int8", [outcome("quiet", 0, "ok", 1.0, 0, right)], LABELS)
    good = rows_of("level 0", [outcome("quiet", 0, "ok", 1.0, 0, right)], LABELS)
    bad = rows_of("elastic", [outcome("quiet", 0, "shed", 1.0, None, None)], LABELS)
    assert "100.00 points WORSE than the best fixed level (level 0: 100.00%)" in verdict([*int8, *good, *bad])


def test_the_plan_scales_with_the_device_and_is_the_same_again() -> None:
    """Twice as slow a device gets half the rate and a longer SLO; the schedule depends on the seed alone."""
    plan, slower = make_plan([5.0, 20.0], 10, 5.0), make_plan([10.0, 40.0], 10, 5.0)
    for phase in PHASES:
        assert plan.rate_per_s[phase.name] == pytest.approx(1000 * phase.utilisation / 20.0)
        assert plan.rate_per_s[phase.name] == pytest.approx(2 * slower.rate_per_s[phase.name])
    assert plan.slo_ms < slower.slo_ms
    assert plan.arrivals == make_plan([5.0, 20.0], 10, 5.0).arrivals
    assert [a.at_s for a in plan.arrivals] == sorted(a.at_s for a in plan.arrivals)
    for phase in PHASES:
        begin_s = plan.begin_s[phase.name]
        times = [arrival.at_s for arrival in plan.arrivals if arrival.phase == phase.name]
        assert all(begin_s <= at_s < begin_s + 5.0 * phase.share for at_s in times)


def test_an_earlier_demos_picture_is_replaced_and_no_other_file(tmp_path: Path) -> None:
    """The demo may run again in one folder, but never eats somebody's demo.png."""
    path = tmp_path / "demo.png"
    plan = make_plan([5.0, 20.0], 2, 1.0)
    outcomes = [Outcome(arrival, "ok", 5.0, 0, np.zeros((1, 2), np.float32)) for arrival in plan.arrivals]
    draw(path, {"elastic": outcomes, "level 1": outcomes}, plan.slo_ms, [5.0, 20.0], shades_of(plan))
    assert path.read_bytes().startswith(b"\x89PNG")
    refuse_foreign_picture(path, force=False)
    path.write_bytes(b"a photo of my cat")
    with pytest.raises(CheckpointError, match="not an earlier run's picture"):
        refuse_foreign_picture(path, force=False)
    refuse_foreign_picture(path, force=True)


def test_int8_levels_stand_below_the_float32_ones() -> None:
    """A line for each level of each file, with its type of values and its own accuracy."""
    level = Level(0, 0.1, 2_000_000, 4096, {"accuracy": 0.9})
    table = level_table({"float32": ([level], [3.0]), "int8": ([replace(level, nbytes=1024)], [1.0])}, "digits")
    rows = [line.split() for line in table.splitlines()[-2:]]
    assert [(row[0], row[-2], row[-1]) for row in rows] == [("float32", "4", "3.00"), ("int8", "1", "1.00")]
