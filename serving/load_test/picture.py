"""Picture: level, latency and slowdown over time, an adapting server beside a fixed one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import CheckpointError
from nested_sparse.serving.load_test.open_loop import Outcome

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
    if path.exists() and not force and SIGNATURE.encode() not in path.read_bytes()[:4096]:
        raise CheckpointError(
            f"{path}: exists already and is not an earlier run's picture; name another, or move it away"
        )


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
    level_axis.set_yticks(range(len(service_ms)))
    level_axis.set_ylim(-0.5, len(service_ms) - 0.2)
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
        level_axis.annotate(f" {shade.name}", (shade.begin_s, len(service_ms) - 0.55), color="dimgrey", fontsize=9)
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
    answered = [each for each in outcomes if each.level is not None]
    at_s = [each.arrival.at_s for each in answered]
    levels = [float(each.level or 0) for each in answered]
    level_axis.plot(at_s, levels, **{**dots, "alpha": 0.25})
    level_axis.plot(*_binned(at_s, levels), color=colour, lw=1.5)
    latency_axis.plot(at_s, [each.latency_ms for each in answered], **dots, label=name)
    lost = [each.arrival.at_s for each in outcomes if each.level is None]
    if lost:
        latency_axis.plot(lost, [1.6 * slo_ms] * len(lost), "x", ms=4, color=colour, label=f"{name}: shed or lost")
    timed = [each for each in answered if each.compute_ms is not None and each.started_level is None]
    slowdown = [(each.compute_ms or 0.0) / service_ms[each.level or 0] for each in timed]
    slowdown_axis.plot(*_binned([each.arrival.at_s for each in timed], slowdown), color=colour, lw=1.5)


def _binned(at_s: Sequence[float], values: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Middle and mean of every BIN_S that has values."""
    bins = np.floor(np.asarray(at_s) / BIN_S).astype(np.int64)
    found, place, count = np.unique(bins, return_inverse=True, return_counts=True)
    middle_s = (found.astype(np.float64) + 0.5) * BIN_S
    return middle_s, np.bincount(place, np.asarray(values), len(found)) / count
