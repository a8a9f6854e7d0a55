"""Report of a study: its tables in Markdown, with the spread over seeds, and its pictures.

A standard error says how far the mean over so few seeds may be off; it does not hold the error of a finite test set.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAME_DENSITY = 0.05
"""Two levels count as equally dense where their densities differ by this share at most: patterns round otherwise."""


@dataclass(frozen=True)
class Metric:
    """The metric of a study, as checkpoints name it.

    share: it is from 0 to 1, and is shown in percent. higher_is_better: false of an error, such as bits per byte.
    """

    name: str = "accuracy"
    share: bool = True
    higher_is_better: bool = True

    @property
    def shown(self) -> str:
        """Its name and unit for a head or an axis."""
        name = self.name.replace("_", " ")
        return f"{name}, %" if self.share else name

    def of(self, row: Finished, level: int) -> dict[int, float]:
        """A level's figure by seed."""
        values = row.metric(level, self.name)
        return {seed: 100 * value for seed, value in values.items()} if self.share else values

    def gain(self, ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference:
        """The difference of figures by seed, above 0 where ours are better."""
        found = Difference.of(ours, theirs)
        return found if self.higher_is_better else Difference(-found.mean, found.error, found.pairs)

    def spread(self, row: Finished, level: int) -> Spread:
        """A level's figure over seeds."""
        return Spread.of(list(self.of(row, level).values()))


DISAGREEMENT = Metric("disagreement")


@dataclass(frozen=True)
class Spread:
    """A figure over seeds. deviation: the standard deviation; None of a single seed."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    @property
    def error(self) -> float | None:
        """Standard error of the mean; None of a single seed."""
        return None if self.deviation is None else self.deviation / math.sqrt(self.count)

    def text(self, digits: int = 2) -> str:
        """Mean ± standard deviation, and the standard error."""
        if self.deviation is None or self.error is None:
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} ± {self.deviation:.{digits}f}, se {self.error:.{digits}f}"


@dataclass(frozen=True)
class Difference:
    """How far a figure is above that of another row, in percent of the latter: the mean, and its standard error.

    pairs: seeds that both have, each compared with itself; 0 where the means were compared.
    """

    mean: float
    error: float | None
    pairs: int

    @classmethod
    def of(cls, ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference:
        """Of figures by seed. By pairs of one seed where there are two such pairs or more, else by the means."""
        common = sorted(ours.keys() & theirs.keys())
        if len(common) > 1 or len(ours) == len(theirs) == len(common):
            spread = Spread.of([100 * (ours[seed] / theirs[seed] - 1) for seed in common])
            return cls(spread.mean, spread.error, spread.count)
        mine, other = Spread.of(list(ours.values())), Spread.of(list(theirs.values()))
        error = None
        if mine.error is not None and other.error is not None:
            error = 100 * mine.mean / other.mean * math.hypot(mine.error / mine.mean, other.error / other.mean)
        return cls(100 * (mine.mean / other.mean - 1), error, 0)

    def text(self) -> str:
        """The difference in percent ± the standard error."""
        return f"{self.mean:+.2f}{'' if self.error is None else f' ± {self.error:.2f}'} %"


class Finished:
    """The finished runs of one row: its lines by seed.

    kind: "dense", "separate" or "nested". line: name of the method whose rows the picture against budget joins, or "".
    compare: names of the rows that it is set against.
    """

    def __init__(self, name: str, kind: str, line: str, compare: Sequence[str], lines: Mapping[int, Any]) -> None:
        self.name, self.kind, self.line, self.compare, self.lines = name, kind, line, tuple(compare), dict(lines)
        first = next(iter(self.lines.values()))
        self.densities = [level["density"] for level in first["levels"]]
        self.mflops = [level["flops"] / 1e6 for level in first["levels"]]

    @property
    def levels(self) -> range:
        """The levels' numbers."""
        return range(len(self.densities))

    def cost(self, key: str) -> Spread:
        """Over seeds; key: "passes" or "seconds"."""
        return Spread.of([line[key] for line in self.lines.values()])

    def metric(self, level: int, name: str) -> dict[int, float]:
        """A metric of a level by seed; without the seeds that have no such figure."""
        values = {seed: line["levels"][level].get(name) for seed, line in self.lines.items()}
        return {seed: value for seed, value in values.items() if value is not None}

    def counterpart(self, level: int, other: Finished) -> int | None:
        """The level of `other` to compare with: that of a dense net, the same number, or one of equal density."""
        if other.kind == "dense":
            return 0
        if len(other.levels) == len(self.levels):
            return level
        mine = self.densities[level]
        near = [each for each in other.levels if abs(other.densities[each] / mine - 1) <= SAME_DENSITY]
        return near[0] if near else None


def tables(
    rows: Sequence[Finished], times: Mapping[str, Any] | None = None, metric: Metric = Metric()
) -> Iterator[str]:
    """The tables' lines: the metric and cost; differences; disagreement; measured times where they are given."""
    most = max((len(row.levels) for row in rows), default=0)
    heads = [f"level {level}" for level in range(most)]

    def table(first: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[str]:
        if lines:
            yield f"| {' | '.join([*first, *heads])} |"
            yield "|---" * (len(first) + most) + "|"
            yield from (f"| {' | '.join([*line, *[''] * (len(first) + most - len(line))])} |" for line in lines)
            yield ""

    yield f"{metric.shown.capitalize()}: mean ± standard deviation over seeds, standard error; share of weights kept"
    yield ""
    yield from table(("row", "seeds", "passes", "seconds"), [_metric_cells(row, metric) for row in rows])
    known = {row.name: row for row in rows}
    pairs = [(row, known[name]) for row in rows for name in row.compare if name in known]
    if pairs:
        yield f"{metric.name} above another row's, in percent of it ± standard error; pairs: seeds compared one by one"
        yield ""
    yield from table(("row", "against", "pairs"), [_difference_cells(*pair, metric) for pair in pairs])
    differing = [row for row in rows if len(row.levels) > 1 and DISAGREEMENT.of(row, 0)]
    if differing:
        yield "Disagreement: percent of answers that are not the densest level's"
        yield ""
    yield from table(("row",), [_disagreement_cells(row) for row in differing])
    if times:
        measured = {row.name: times["rows"][row.name] for row in rows if row.name in times["rows"]}
        yield f"Milliseconds of one sample, medians of {times['rounds']} runs in turns, one thread, {times['cpu']}"
        yield ""
        yield from table(("row",), [[name, *(f"{ms:.3f}" for ms in each)] for name, each in measured.items()])


def _metric_cells(row: Finished, metric: Metric) -> list[str]:
    seconds = row.cost("seconds")
    spread = "" if seconds.deviation is None else f" ± {seconds.deviation:.0f}"
    cells = [row.name, str(len(row.lines)), f"{row.cost('passes').mean:.1f}", f"{seconds.mean:.0f}{spread}"]
    for level in row.levels:
        cells.append(f"{metric.spread(row, level).text()} ({row.densities[level]:.1%})")
    return cells


def _difference_cells(row: Finished, other: Finished, metric: Metric) -> list[str]:
    cells, pairs = [], set()
    for level in row.levels:
        same = row.counterpart(level, other)
        if same is None:
            cells.append("")
            continue
        difference = Difference.of(metric.of(row, level), metric.of(other, same))
        cells.append(difference.text())
        pairs.add(difference.pairs)
    return [row.name, other.name, ", ".join(map(str, sorted(pairs))), *cells]


def _disagreement_cells(row: Finished) -> list[str]:
    return [row.name, *(DISAGREEMENT.spread(row, level).text() for level in row.levels)]


def draw(
    title: str, rows: Sequence[Finished], times: Mapping[str, Any] | None, path: Path, metric: Metric = Metric()
) -> None:
    """Save the pictures: the metric against FLOPs at `path`, and in files beside it two others.

    These are against budget, of the rows that name a line, and against milliseconds where times are given.
    """
    flops = [(row, row.mflops) for row in rows]
    _draw_levels(title, flops, "MFLOP of one sample", path, metric)
    methods: dict[str, list[Finished]] = {}
    for row in rows:
        if row.line:
            methods.setdefault(row.line, []).append(row)
    if methods:
        _draw_budget(title, methods, path.with_name(f"{path.stem}-budget{path.suffix}"), metric)
    if times:
        measured = [(row, times["rows"][row.name]) for row in rows if row.name in times["rows"]]
        label = f"measured ms of one sample, one thread, {times['cpu']}"
        _draw_levels(title, measured, label, path.with_name(f"{path.stem}-latency{path.suffix}"), metric)


def _draw_levels(
    title: str, lines: Sequence[tuple[Finished, Sequence[float]]], label: str, path: Path, metric: Metric
) -> None:
    """A line for each nested row, crosses for nets trained alone; bars are standard errors."""
    with _Plot(title, label, path, metric) as axis:
        for row, x in lines:
            spreads = [metric.spread(row, level) for level in row.levels]
            style = {"nested": "o-", "separate": "x"}.get(row.kind, "s")
            errors = [spread.error or 0.0 for spread in spreads]
            axis.errorbar(x, [each.mean for each in spreads], errors, fmt=style, label=row.name, lw=1, ms=5, capsize=2)


def _draw_budget(title: str, methods: Mapping[str, list[Finished]], path: Path, metric: Metric) -> None:
    """The metric of each level against passes: rows of one method are joined, each level's density stands beside."""
    with _Plot(title, "budget: epochs of forward and backward passes, all levels together", path, metric) as axis:
        for number, (line, members) in enumerate(methods.items()):
            members.sort(key=lambda row: row.cost("passes").mean)
            for level in range(max(len(row.levels) for row in members)):
                having = [row for row in members if level in row.levels]
                spreads = [metric.spread(row, level) for row in having]
                axis.errorbar(
                    [row.cost("passes").mean for row in having],
                    [spread.mean for spread in spreads],
                    [spread.error or 0.0 for spread in spreads],
                    marker="ov^sDP*X"[level % 8],
                    color=f"C{number % 10}",
                    label=None if level else line,
                    lw=1,
                    ms=5,
                    capsize=2,
                )
                at, text = (having[-1].cost("passes").mean, spreads[-1].mean), f"{having[-1].densities[level]:.1%}"
                axis.annotate(text, at, (6, -3), textcoords="offset points", fontsize=6, color=f"C{number % 10}")


class _Plot:
    """A context with the axis of a new picture, saved at the end."""

    def __init__(self, title: str, label: str, path: Path, metric: Metric) -> None:
        self.title, self.label, self.path, self.metric = title, label, path, metric

    def __enter__(self) -> Any:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        self.figure, self.axis = pyplot.subplots(figsize=(9, 6))
        return self.axis

    def __exit__(self, kind: object, *_: object) -> None:
        from matplotlib import pyplot

        if kind is None:
            if self.axis.dataLim.x0 > 0:  # an untrained net costs no pass
                self.axis.set_xscale("log")
            for axis in (self.axis.xaxis.set_major_formatter, self.axis.xaxis.set_minor_formatter):
                axis(lambda value, _: f"{value:g}")
            self.axis.set_xlabel(self.label)
            self.axis.set_ylabel(f"{self.metric.shown} (test data)")
            self.axis.set_title(self.title)
            if self.axis.has_data():
                self.axis.legend(fontsize=6, ncols=2)
            self.figure.tight_layout()
            self.figure.savefig(self.path, dpi=100)
        pyplot.close(self.figure)
