"""What `bench serving` prints: the cells, the rows with their verdicts, and the facts of the JSON line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nested_sparse.runtime.policy import ELASTIC
from nested_sparse.runtime.resources import cpu_model

from ...commands.output import print_line, print_table
from ..machine import machine_facts
from ..neighbours import TOLERABLE_LOAD
from ..reach import MET
from .experiment import CellResult
from .figure import Figure
from .score import Score


def print_cells(results: Sequence[CellResult], scored_by: str) -> None:
    """A line per condition: effective accuracy of each server; of the last adapting one also what it did."""
    names = list(dict.fromkeys(name for result in results for name in result.rounds))
    shown = ELASTIC if ELASTIC in names else names[-1]
    print_table(
        f"Effective accuracy, % of all offered requests, late and lost ones as 0 ({scored_by}), on {cpu_model()}",
        ("trace", "co-runner", "offered", *names, f"SLO met, {shown} %", "p50 ms", "p99 ms", "levels, %"),
        [_line(result, names, shown) for result in results],
    )


def print_figures(figures: Sequence[Figure]) -> None:
    """The rows: what is to be reached, what was measured; below, how, and what could not be."""
    print_table(
        "What the elastic runtime is to reach",
        ("row", "reach", "measured", "met"),
        [
            (each.name, "" if each.reach is None else str(each.reach), _measured(each), MET[each.met])
            for each in figures
        ],
    )
    for each in figures:
        if each.unavailable or each.note:
            print_line(f"{each.name}: {'not measured: ' if each.unavailable else ''}{each.unavailable or each.note}")


def print_conditions(results: Sequence[CellResult], facts: Mapping[str, Any]) -> None:
    """What a reader must know of how it was measured: what was not possible here, who disturbed."""
    print(
        f"{facts['samples_per_request']} samples a request, SLO {facts['slo_ms']:.1f} ms, "
        f"{facts['rate_per_s']:.1f} requests a second: {facts['utilisation']:g} of what the densest level can do; the "
        f"client used {facts['client_cores']:.2f} cores"
    )
    for kind, why in facts["co_runners_unavailable"].items():
        print_line(f"co-runner {kind}: {why}")
    if facts["other_load"] > TOLERABLE_LOAD:
        print(f"Other processes kept {facts['other_load']:.1f} cores busy meanwhile: measure again on an idle machine.")
    if unverified := unverified_of(results):
        print(unverified)


def errors_of(results: Sequence[CellResult]) -> list[str]:
    """What must not happen: wrong answers, failed requests; one line each."""
    lines = []
    for result in results:
        for name, score in result.scores.items():
            if score.wrong:
                lines.append(
                    f"{name}, {result.cell}: {score.wrong} of {score.offered} answers are not those of the level they "
                    "name"
                )
            if score.errors:
                details = {
                    each.outcome.detail
                    for part in result.rounds[name]
                    for each in part
                    if each.outcome.status == "error"
                }
                lines.append(f"{name}, {result.cell}: {score.errors} requests failed, with {sorted(details)[0]!r}")
    return lines


def unverified_of(results: Sequence[CellResult]) -> str:
    """How many answers had nothing to be compared with; empty if none."""
    scores = [score for result in results for score in result.scores.values()]
    unverified, lowered = sum(score.unverified for score in scores), sum(score.lowered for score in scores)
    if not unverified:
        return ""
    return f"{unverified} answers could not be verified; {lowered} answers were lowered during their inference"


def report(results: Sequence[CellResult], figures: Sequence[Figure], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON line: the machine, the load, every row, every cell summarised."""
    return {
        "bench": "serving",
        **machine_facts(),
        **facts,
        "rows": [each.to_json() for each in figures],
        "cells": [
            {
                "trace": result.cell.trace,
                "co_runner": result.cell.co_runner,
                "servers": {
                    name: {
                        **score.to_json(),
                        "missed_before_adapting": result.missed_before_adapting(name)
                        if result.cell.co_runner != "none"
                        else [],
                    }
                    for name, score in result.scores.items()
                },
            }
            for result in results
        ],
        "errors": errors_of(results),
    }


def _line(result: CellResult, names: Sequence[str], shown: str) -> tuple[Any, ...]:
    scores = result.scores
    ours = scores[shown]
    return (
        result.cell.trace,
        result.cell.co_runner,
        ours.offered,
        *(f"{100 * scores[name].effective_accuracy:.1f}" for name in names),
        f"{100 * ours.attainment:.1f}",
        _number(ours.p50_ms),
        _number(ours.p99_ms),
        _levels(ours),
    )


def _levels(score: Score) -> str:
    answered = max(1, sum(score.levels.values()))
    return " ".join(f"{level}:{100 * count / answered:.0f}" for level, count in score.levels.items())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _measured(figure: Figure) -> str:
    return "" if figure.measured is None else f"{figure.measured:.3g} {figure.unit}"
