"""Families: the tables and the picture of docs/families.md, made of one ladder of each of several studies.

    python tools/families.py docs/results/families.toml

Each [[family]] has a name, a study (a file of tools/study.py beside this one), and the names of its rows: `dense`;
`ladder`, whose `compare` names the nets of one density trained alone; and, where there are such, `small`, a dense net
of about as many FLOPs as the ladder's level of a few per cent, and `int8`, the ladder in int8. [paper] has points that
others report: share of weights, and relative difference from dense in percent. A family without runs is left out. The
times, where there are any, are those of tools/families_latency.py. Needs Python 3.11 or newer.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib
from study import Study
from study_report import Difference, Finished, Metric

LINEAR = 2.0
"""Differences up to so many percent are drawn to a linear scale, larger ones to a logarithmic one."""
TICKS = (-50, -20, -10, -5, -2, -1, 0, 1, 2, 5)


@dataclass(frozen=True)
class Family:
    """The finished rows of one family.

    alone: nets of one density. small: a dense net of few FLOPs, or None. int8: the ladder in int8, or None.
    """

    name: str
    metric: Metric
    dense: Finished
    ladder: Finished
    alone: tuple[Finished, ...]
    small: Finished | None
    int8: Finished | None

    @classmethod
    def of(cls, given: dict[str, str], folder: Path) -> Family | None:
        """The family that a [[family]] names; None while its ladder or its dense net has no run."""
        study = Study(folder / given["study"])
        rows = {row.name: row for row in study.finished()}
        for key in {"dense", "ladder", "small", "int8"} & given.keys():
            if given[key] not in study.named:
                raise SystemExit(f"family '{given['name']}': {key}: {given['study']} has no row '{given[key]}'")
        if given["dense"] not in rows or given["ladder"] not in rows:
            return None
        ladder = rows[given["ladder"]]
        alone = tuple(rows[name] for name in ladder.compare if name in rows and name != given["dense"])
        small, int8 = (rows.get(given.get(key, "")) for key in ("small", "int8"))
        return cls(given["name"], study.metric, rows[given["dense"]], ladder, alone, small, int8)

    def against(self, other: Finished, level: int) -> Difference | None:
        """A level's figure against that of `other` at the same density, or of a dense net; None where it has none."""
        same = self.ladder.counterpart(level, other)
        if same is None:
            return None
        return self.metric.gain(self.metric.of(self.ladder, level), self.metric.of(other, same))


def tables(families: Sequence[Family], times: Mapping[str, Any] | None = None) -> Iterator[str]:
    """The tables' lines: levels against dense, beside small dense nets; against nets alone; int8; times."""
    most = max(len(family.ladder.levels) for family in families)
    levels = " | ".join(f"level {level}" for level in range(most))
    yield from _table(
        "Better (+) or worse (-) than the dense net, in percent ± standard error; share of weights kept",
        f"metric | seeds | dense | {levels} | small dense net",
        (_against_dense(family, most) for family in families),
    )
    yield from _table(
        "Better or worse than a net of the same density trained alone, in percent ± standard error",
        levels,
        (_against_alone(family, most) for family in families),
    )
    yield from _table("int8, better or worse than float32, in percent ± standard error", levels, map(_int8, families))
    if times:
        rows = (row for family in families for row in _times(family, times["families"].get(family.name)))
        yield from _table(
            "Milliseconds of one sample, medians of runs in turns, one thread; times faster than dense ONNX Runtime",
            f"processor, runs | dense ONNX Runtime | {levels}",
            rows,
        )


def _table(title: str, heads: str, rows: Iterable[list[str]]) -> Iterator[str]:
    """The lines of a table whose first column is the family; none where no row has cells."""
    filled = [row for row in rows if row]
    if filled:
        yield from ("", title, "", f"| family | {heads} |", "|---" * (2 + heads.count("|")) + "|")
        yield from (f"| {' | '.join(row)} |" for row in filled)


def _int8(family: Family) -> list[str]:
    """Each level of the int8 file against the same level in float32."""
    if family.int8 is None:
        return []
    pairs = (
        (family.metric.of(family.int8, level), family.metric.of(family.ladder, level)) for level in family.ladder.levels
    )
    return [family.name, *(family.metric.gain(*pair).text() for pair in pairs)]


def _times(family: Family, times: Mapping[str, Any] | None) -> Iterator[list[str]]:
    """The times of the float32 file, and of the int8 file where it was timed."""
    for key, name in (("levels_ms", ""), ("int8_ms", ", int8")) if times else ():
        if times and key in times:
            cells = [f"{ms:.3f} ({times['dense_ms'] / ms:.1f} ×)" for ms in times[key]]
            where = f"{times['cpu']}, {times['rounds']}"
            yield [family.name + name, where, f"{times['dense_ms']:.3f}", *cells]


def _against_dense(family: Family, most: int) -> list[str]:
    cells = [family.name, family.metric.shown, str(len(family.ladder.lines))]
    cells.append(family.metric.spread(family.dense, 0).text())
    for level in family.ladder.levels:
        if (difference := family.against(family.dense, level)) is not None:
            cells.append(f"{difference.text()} ({family.ladder.densities[level]:.1%})")
    cells += [""] * (most - len(family.ladder.levels))
    if family.small is None:
        return [*cells, ""]
    difference = family.metric.gain(family.metric.of(family.small, 0), family.metric.of(family.dense, 0))
    return [*cells, f"{difference.text()} ({family.small.mflops[0] / family.dense.mflops[0]:.1%} of the FLOPs)"]


def _against_alone(family: Family, most: int) -> list[str]:
    cells = [""] * most
    for level in family.ladder.levels:
        for other in family.alone:
            difference = family.against(other, level)
            cells[level] = cells[level] if difference is None else difference.text()
    return [family.name, *cells]


def draw(title: str, families: Sequence[Family], paper: dict[str, Any], path: Path) -> None:
    """Save the picture: relative difference from dense over the share of weights, bars are standard errors."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FixedLocator

    figure, axis = pyplot.subplots(figsize=(11, 6))
    axis.set_prop_cycle(color=[*pyplot.get_cmap("tab20").colors[::2], *pyplot.get_cmap("tab20").colors[1::2]])
    for family in families:
        pairs = [pair for level in family.ladder.levels if (pair := family.against(family.dense, level)) is not None]
        errors = [pair.error or 0.0 for pair in pairs]
        shares = [100 * density for density in family.ladder.densities]
        axis.errorbar(shares, [pair.mean for pair in pairs], errors, fmt="o-", lw=1, ms=5, capsize=2, label=family.name)
    points = paper["points"]
    axis.plot([100 * share for share, _ in points], [each for _, each in points], "k*", ms=12, label=paper["name"])
    axis.axhline(0, color="grey", lw=0.5)
    axis.margins(y=0.08)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_formatter(lambda value, _: f"{value:g}")
    axis.set_yscale("symlog", linthresh=LINEAR)  # small losses are told apart beside large ones
    axis.yaxis.set_major_locator(FixedLocator(TICKS))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_xlabel("share of weights kept, %")
    axis.set_ylabel("better (+) or worse (-) than the dense net, %")
    axis.set_title(title)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", type=Path, help="file that names the families")
    path: Path = parser.parse_args().families
    content = tomllib.loads(path.read_text())
    found = [family for given in content["family"] if (family := Family.of(given, path.parent)) is not None]
    if not found:
        raise SystemExit(f"{path}: no family has runs of its dense net and of its ladder")
    timed = path.with_suffix(".times.json")
    print("\n".join(tables(found, json.loads(timed.read_text()) if timed.exists() else None)))
    draw(content["title"], found, content["paper"], path.with_suffix(".png"))


if __name__ == "__main__":
    main()
