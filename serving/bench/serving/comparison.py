"""Comparison: the figures computed from the cells of an experiment: elastic beside fixed levels and SlackFit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from nested_sparse.runtime.policy import ELASTIC, SLACKFIT
from nested_sparse.runtime.simulation import fixed_misses_at

from ..reach import Reach
from .cell import BURSTY
from .experiment import CellResult
from .figure import Figure
from .reference import Reference
from .score import Score, standard_error


def comparison(
    results: Sequence[CellResult], levels: Mapping[str, int], reference: Reference, slo_ms: float
) -> list[Figure]:
    """The figures. levels: the contenders that run at one fixed level, with that level."""
    return [
        *against_fixed(results, levels),
        misses_at_equal_accuracy(results, levels, reference),
        against_slackfit(results),
        attainment_where_level_0_fits(results, levels, slo_ms),
        *in_time_at_the_client(results),
        late_after_a_co_runner(results),
    ]


def against_fixed(results: Sequence[CellResult], levels: Mapping[str, int]) -> list[Figure]:
    """Effective accuracy of elastic minus that of the best fixed level of the same cell: the worst cell, the mean.

    With standard errors, as arrivals are shared. The best level of a cell is the one that was best by chance, too, and
    the worst of many cells the one with the worst luck: the notes tell how many cells are below 0 beyond their errors.
    """
    points: dict[str, float] = {}
    errors: dict[str, float | None] = {}
    for result in results:
        scores = result.scores
        fixed = [name for name in levels if name in scores]
        if ELASTIC in scores and fixed:
            best = max(fixed, key=lambda name: scores[name].effective_accuracy)
            cell = str(result.cell)
            points[cell] = 100.0 * (scores[ELASTIC].effective_accuracy - scores[best].effective_accuracy)
            error = standard_error(result.rounds[ELASTIC], result.rounds[best])
            errors[cell] = None if error is None else 100.0 * error
    names = ("elastic - best fixed level, worst cell", "elastic - best fixed level, mean of cells")
    bounds = (Reach(">=", 0.0), Reach(">=", 2.0))
    if not points:
        why = "needs the elastic server and fixed levels"
        return [Figure(name, "points", reach, unavailable=why) for name, reach in zip(names, bounds, strict=True)]
    worst = min(points, key=lambda name: points[name])
    lost = [name for name, value in points.items() if value < 0]
    known = {name: error for name, error in errors.items() if error is not None}
    worst_note = f"{worst}; worse in {len(lost)} of {len(points)} cells{_listed(lost)}"
    mean_note = f"{len(points)} cells"
    if len(known) == len(points):
        surely = [name for name in lost if points[name] < -2.0 * known[name]]
        worst_note += f"; by more than two standard errors in {len(surely)}{_listed(surely)}; that of {worst} is "
        worst_note += f"{known[worst]:.2f}"
        mean_note += f", standard error {math.hypot(*known.values()) / len(known):.2f}"
    details = {"by_cell": points, "standard_errors": errors}
    return [
        Figure(names[0], "points", bounds[0], points[worst], worst_note, details=details),
        Figure(names[1], "points", bounds[1], statistics.fmean(points.values()), mean_note),
    ]


def _listed(cells: Sequence[str]) -> str:
    return f": {', '.join(cells)}" if cells else ""


def misses_at_equal_accuracy(results: Sequence[CellResult], levels: Mapping[str, int], reference: Reference) -> Figure:
    """Misses of elastic / misses of a fixed level of the same mean accuracy, on bursty traces, all cells together.

    The misses of that fixed level are interpolated linearly between the two levels whose accuracy, over the cell's
    items, lies around the mean accuracy of elastic's in-time answers. Beyond the range they are the outermost level's.
    """
    name, reach = "misses at equal mean accuracy, elastic / fixed, bursty traces", Reach("<=", 1 / 2.85)
    ours = theirs = 0.0
    cells = {}
    for result in results:
        scores = result.scores
        if result.cell.trace not in BURSTY or ELASTIC not in scores or not all(each in scores for each in levels):
            continue
        items = [each.outcome.arrival.item for part in result.rounds[ELASTIC] for each in part]
        mean_accuracy = scores[ELASTIC].mean_accuracy
        if not items or mean_accuracy is None:
            continue
        expected = fixed_misses_at(
            mean_accuracy,
            [reference.level_score(level, items) for level in levels.values()],
            [scores[each].misses for each in levels],
        )
        ours, theirs = ours + scores[ELASTIC].misses, theirs + expected
        cells[str(result.cell)] = {
            "elastic": scores[ELASTIC].misses,
            "fixed": expected,
            "mean_accuracy": mean_accuracy,
        }
    if not cells or not levels:
        return Figure(name, "×", reach, unavailable=f"needs elastic, fixed levels and a trace of {', '.join(BURSTY)}")
    if not theirs:
        return Figure(name, "×", reach, unavailable="no fixed level of that accuracy missed anything", details=cells)
    note = (
        f"{ours:.0f} of elastic against {theirs:.1f}, interpolated linearly between the two fixed levels around "
        "elastic's mean in-time accuracy"
    )
    return Figure(name, "×", reach, ours / theirs, note, details=cells)


def against_slackfit(results: Sequence[CellResult]) -> Figure:
    """Effective accuracy of elastic minus that of SlackFit, mean of the cells with a co-runner."""
    name, reach = "elastic - SlackFit, mean of cells with a co-runner", Reach(">=", 3.0)
    points = {
        str(result.cell): 100.0 * (scores[ELASTIC].effective_accuracy - scores[SLACKFIT].effective_accuracy)
        for result in results
        if result.cell.co_runner != "none" and {ELASTIC, SLACKFIT} <= (scores := result.scores).keys()
    }
    if not points:
        return Figure(name, "points", reach, unavailable="needs both servers and a co-runner")
    worst = min(points, key=lambda cell: points[cell])
    note = f"{len(points)} cells; least {points[worst]:.2f}, {worst}"
    return Figure(name, "points", reach, statistics.fmean(points.values()), note, details={"by_cell": points})


def attainment_where_level_0_fits(results: Sequence[CellResult], levels: Mapping[str, int], slo_ms: float) -> Figure:
    """Share of the requests that elastic answers in time, in the cells where fixed level 0 keeps the SLO.

    Level 0 keeps it where the 99th percentile of all requests offered to it lies within `slo_ms`.
    """
    name, reach = "attainment where level 0's p99 fits the SLO", Reach(">=", 99.9)
    lowest = next((each for each, level in levels.items() if level == 0), None)
    fitting = []
    for result in results:
        scores = result.scores
        if lowest in scores and ELASTIC in scores:
            p99_ms = scores[lowest].p99_offered_ms
            if p99_ms is not None and p99_ms <= slo_ms:
                fitting.append((str(result.cell), scores[ELASTIC]))
    if not fitting:
        return Figure(name, "%", reach, unavailable="level 0 fits in no cell, or was not measured beside elastic")
    offered = sum(score.offered for _, score in fitting)
    missed = sum(score.misses for _, score in fitting)
    note = f"{missed} of {offered} requests missed in the {len(fitting)} of {len(results)} cells where it fits"
    missed_by_cell = {cell: score.misses for cell, score in fitting}
    return Figure(name, "%", reach, 100.0 * (1.0 - missed / max(1, offered)), note, details={"missed": missed_by_cell})


def in_time_at_the_client(results: Sequence[CellResult]) -> list[Figure]:
    """Share of the requests that elastic answers in time with Poisson arrivals: alone, and beside busy processes.

    Those come and go. Time counts at the client, from the moment at which a request was to be sent.
    """
    figures = []
    for co_runner, beside, bound in (("none", "quiet device", 99.95), ("cpu", "a co-runner that comes and goes", 99.5)):
        name, reach = f"in time at the client, Poisson arrivals, {beside}", Reach(">=", bound)
        scores = [
            result.scores[ELASTIC]
            for result in results
            if (result.cell.trace, result.cell.co_runner) == ("poisson", co_runner) and ELASTIC in result.scores
        ]
        if not scores:
            why = f"needs elastic, the trace poisson and the co-runner {co_runner}"
            figures.append(Figure(name, "%", reach, unavailable=why))
            continue
        offered, missed = sum(each.offered for each in scores), sum(each.misses for each in scores)
        note = f"{missed} of {offered} requests missed"
        figures.append(Figure(name, "%", reach, 100.0 * (1.0 - missed / max(1, offered)), note))
    return figures


def late_after_a_co_runner(results: Sequence[CellResult]) -> Figure:
    """The most requests that elastic missed between the co-runner's start and three in-time answers in a row."""
    name, reach = "late after a co-runner starts, before the level has adapted, worst segment", Reach("<=", 3.0)
    missed = {
        str(result.cell): result.missed_before_adapting(ELASTIC)
        for result in results
        if result.cell.co_runner != "none" and ELASTIC in result.rounds
    }
    every = [count for counts in missed.values() for count in counts]
    if not every:
        return Figure(name, "requests", reach, unavailable="needs elastic and a co-runner")
    note = f"median {statistics.median(every):g} of {len(every)} segments; adapted = 3 in-time answers in a row"
    return Figure(name, "requests", reach, float(max(every)), note, details={"by_cell": missed})


def best_fixed(results: Sequence[CellResult], levels: Mapping[str, int]) -> str | None:
    """Name of the fixed level with the highest mean effective accuracy over all cells."""
    totals: dict[str, float] = {}
    for result in results:
        scores: dict[str, Score] = result.scores
        for name in levels:
            totals[name] = totals.get(name, 0.0) + scores[name].effective_accuracy
    return max(totals, key=lambda name: totals[name]) if totals else None
