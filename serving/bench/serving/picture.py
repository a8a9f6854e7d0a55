"""Picture: level, latency and slowdown over time, an adapting server beside a fixed one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import CheckpointError
from nested_sparse.regular_file import open_regular

from .open_loop import Outcome

SIGNATURE = "nested-sparse"
COLOURS = ("tab:blue", "tab:red")
DPI = 100
BIN_S = 0.25
"""Levels and slowdown are also drawn as means over this: single requests hide the course."""


@dataclass(frozen=True, slots=True)
class Shade:
    """A stretch of time with a name: a phase of the load, or a co-runner (`dark`)."""

    name: str
    begin_s: float
    end_s: float
    dark: bool = False


def refuse_foreign_picture(path: Path, force: bool = False) -> None:
    """A picture of an earlier run is replaced; any other file is kept unless `force`. Raises CheckpointError."""
    if not path.parent.is_dir():
        raise CheckpointError(f"{path}: there is no folder {path.parent}; make it, or name another")
    if path.exists() and not force and not _is_ours(_head(path)):
        raise CheckpointError(
            f"{path}: exists already and is not an earlier run's picture; name another, or move it away"
        )


def _head(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(4096)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be a picture ({error.strerror or error}); name another file") from None


def _is_ours(head: bytes) -> bool:
    """A PNG that says so: our name alone is in many a text."""
    return head.startswith(b"\x89PNG") and SIGNATURE.encode() in head


def draw(
    path: Path,
    runs: Mapping[str, Sequence[Outcome]],
    slo_ms: float,
    service_ms: Sequence[float],
    shades: Sequence[Shade],
) -> None:
    """Save a PNG: `runs` (the first is ours, at most two), drawn over each other; `service_ms` of the idle levels.

    Slowdown is a run's time / that of its level on the idle device. Raises CheckpointError where the file
    cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(3, 1, figsize=(9, 6), sharex=True, height_ratios=[2, 3, 1.4])
    for colour, (name, outcomes) in reversed(list(zip(COLOURS, runs.items(), strict=False))):
        _draw_run(axes, name, outcomes, colour, slo_ms, service_ms)
    level_axis, latency_axis, slowdown_axis = axes
    highest = max([len(service_ms) - 1, *(each.level or 0 for run in runs.values() for each in run)])
    level_axis.set_yticks(range(highest + 1))
    level_axis.set_ylim(-0.5, highest + 0.8)
    level_axis.set_ylabel("level served")
    latency_axis.axhline(slo_ms, color="black", lw=1, ls="--", label=f"SLO {slo_ms:.0f} ms")
    latency_axis.set_yscale("log")
    for axis in (latency_axis.yaxis.set_major_formatter, latency_axis.yaxis.set_minor_formatter):
        axis(ticker.FuncFormatter(_plain))
    latency_axis.set_ylabel("latency (ms)")
    slowdown_axis.set_ylabel("slowdown")
    slowdown_axis.set_ylim(bottom=0)
    slowdown_axis.set_xlabel("time (s); latency counts from the scheduled arrival")
    for shade in shades:
        for axis in axes:
            axis.axvspan(shade.begin_s, shade.end_s, color="grey", alpha=0.25 if shade.dark else 0.0, lw=0)
            axis.axvline(shade.begin_s, color="grey", lw=0.6)
        level_axis.annotate(f" {shade.name}", (shade.begin_s, highest + 0.45), color="dimgrey", fontsize=9)
    handles, labels = latency_axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=5, fontsize=8, frameon=False, markerscale=2)
    figure.tight_layout(rect=(0, 0, 1, 0.96))
    try:
        figure.savefig(path, dpi=DPI, metadata={"Software": SIGNATURE})
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error}); name another place") from None
    finally:
        pyplot.close(figure)


def _plain(value: float, _: int) -> str:
    """1, 2 and 5 of each decade."""
    return f"{value:g}" if f"{value:e}"[0] in "125" else ""


def _draw_run(
    axes: Any, name: str, outcomes: Sequence[Outcome], colour: str, slo_ms: float, service_ms: Sequence[float]
) -> None:
    level_axis, latency_axis, slowdown_axis = axes
    dots = {"ls": "", "marker": ".", "ms": 2.5, "color": colour, "alpha": 0.6}
    answered = [each for each in outcomes if each.status in ("ok", "late")]
    latency_axis.plot(
        [each.arrival.at_s for each in answered], [each.latency_ms for each in answered], **dots, label=name
    )
    lost = [each.arrival.at_s for each in outcomes if each.status not in ("ok", "late")]
    if lost:
        latency_axis.plot(lost, [1.6 * slo_ms] * len(lost), "x", ms=4, color=colour, label=f"{name}: shed or lost")
    levels = [(each.arrival.at_s, float(each.level)) for each in answered if each.level is not None]
    level_axis.plot([at_s for at_s, _ in levels], [level for _, level in levels], **{**dots, "alpha": 0.25})
    level_axis.plot(*_binned(levels), color=colour, lw=1.5)
    slowdown_axis.plot(*_binned(list(_slowdowns(answered, service_ms))), color=colour, lw=1.5)


def _slowdowns(answered: Sequence[Outcome], service_ms: Sequence[float]) -> Iterator[tuple[float, float]]:
    """When, and how much: of the answers that ran at one known level and say how long."""
    for each in answered:
        if each.level is None or each.compute_ms is None or each.lowering is not None:
            continue
        if each.level < len(service_ms):
            yield each.arrival.at_s, each.compute_ms / service_ms[each.level]


def _binned(points: Sequence[tuple[float, float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Middle and mean of every BIN_S that has values."""
    at_s, values = np.reshape(np.asarray(points, np.float64), (-1, 2)).T
    found, place, count = np.unique(np.floor(at_s / BIN_S), return_inverse=True, return_counts=True)
    return (found + 0.5) * BIN_S, np.bincount(place, values, len(found)) / count
