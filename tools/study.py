"""Study: the rows of docs/results.md, each trained by `nested-sparse train`, and the table and picture made of them.

    python tools/study.py run docs/results/fashion-mnist.toml --data ../shared/data --seeds 0 1 2
    python tools/study.py show docs/results/fashion-mnist.toml

`run` skips finished rows, writes one JSON line for each finished run beside the study's file, and can be stopped and
started again at any time; several processes can share the work (--part 1/2). `show` prints the table in Markdown and
saves the picture. `command` prints the command of each row. Needs Python 3.11 or newer.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib


@dataclass(frozen=True)
class Row:
    """One line of the table. kind: "dense", "separate" or "nested"; seeds: the most seeds that it is run with."""

    name: str
    kind: str
    recipe: str
    settings: dict[str, Any]
    seeds: int

    def command(self, seed: int, out: str, data: dict[str, str]) -> list[str]:
        """Arguments of `nested-sparse` that train the row."""
        given = {**self.settings, **data}
        names_first = sorted(given, key=lambda key: not key.endswith(".name"))  # a name drops what was set before
        sets = [word for key in names_first for word in ("--set", f"{key}={_toml(given[key])}")]
        return ["train", self.recipe, *sets, "--seed", str(seed), "--out", out]


def _toml(value: Any) -> str:
    return json.dumps(value)  # numbers, strings, booleans and lists are alike in both


def _merged(common: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """The row's settings over the common ones; a row that sets a table's name sets all keys of that table."""
    own = row.get("settings", {})
    named = {key.partition(".")[0] for key in own if key.endswith(".name")}
    return {key: value for key, value in common.items() if key.partition(".")[0] not in named} | own


class Study:
    """A file of rows, and the finished runs beside it."""

    def __init__(self, path: Path) -> None:
        self.path, self.results = path, path.with_suffix(".jsonl")
        content = tomllib.loads(path.read_text())
        self.title, self.data = content["title"], content["data"]
        common = content.get("settings", {})
        self.rows = [
            Row(row["name"], row["kind"], content["recipe"], _merged(common, row), row.get("seeds", 3))
            for row in content["row"]
        ]

    def runs(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Finished runs by row and seed."""
        if not self.results.exists():
            return {}
        lines = [json.loads(line) for line in self.results.read_text().splitlines()]
        return {(line["row"], line["seed"]): line for line in lines}

    def finish(self, row: Row, seed: int, figures: dict[str, Any]) -> None:
        """Add a finished run's figures."""
        kept = {key: figures[key] for key in ("levels", "dense", "data", "epochs", "passes", "seconds")}
        line = {"row": row.name, "seed": seed, **kept, "settings": row.settings}
        with self.results.open("a") as file:
            file.write(json.dumps(line) + "\n")


def run(study: Study, arguments: argparse.Namespace) -> None:
    """Train what is missing, seed by seed, so that every row has its first figure early."""
    part, parts = map(int, arguments.part.split("/"))
    work = [(row, seed) for seed in arguments.seeds for row in study.rows if seed < row.seeds]
    if arguments.rows:
        work = [(row, seed) for row, seed in work if any(word in row.name for word in arguments.rows)]
    for row, seed in work[part - 1 :: parts]:
        if (row.name, seed) in study.runs():
            continue
        out = arguments.out / study.path.stem / f"{row.name.replace(' ', '-').replace('%', '')}-{seed}"
        data = {key: str(arguments.data / name) for key, name in study.data.items()}
        command = [sys.executable, "-m", "nested_sparse.serving.cli", *row.command(seed, str(out), data), "--json"]
        print(f"{row.name}, seed {seed}", file=sys.stderr, flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE)
        if done.returncode:
            print(f"failed: {shlex.join(command)}", file=sys.stderr, flush=True)
            continue
        study.finish(row, seed, json.loads(done.stdout))


def show(study: Study, arguments: argparse.Namespace) -> None:
    """The table, and the picture beside the study's file."""
    print("| " + " | ".join(["row", "seeds", "cost", *(f"level {level}" for level in range(4))]) + " |")
    print("|---|---|---|---|---|---|---|")
    runs = study.runs()
    points: dict[str, list[tuple[float, float]]] = {}
    for row in study.rows:
        mine = [line for (name, _), line in runs.items() if name == row.name]
        if not mine:
            continue
        cells = []
        for level, settings in enumerate(mine[0]["levels"]):
            accuracies = [100 * line["levels"][level]["accuracy"] for line in mine]
            spread = f" ± {statistics.stdev(accuracies):.2f}" if len(mine) > 1 else ""
            cells.append(f"{statistics.mean(accuracies):.2f}{spread} ({settings['density']:.1%})")
            points.setdefault(row.name, []).append((settings["flops"] / 1e6, statistics.mean(accuracies)))
        cells += [""] * (4 - len(cells))
        cost = statistics.mean(line["passes"] for line in mine)
        print(f"| {row.name} | {len(mine)} | {cost:.1f} | " + " | ".join(cells) + " |")
    draw(study, points)


def draw(study: Study, points: dict[str, list[tuple[float, float]]]) -> None:
    """Accuracy against FLOPs, a line for each nested row, crosses for nets trained alone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(9, 6))
    kinds = {row.name: row.kind for row in study.rows}
    for name, line in points.items():
        style = "o-" if kinds[name] == "nested" else "x" if kinds[name] == "separate" else "s"
        axis.plot([x for x, _ in line], [y for _, y in line], style, label=name, lw=1, ms=5)
    axis.set_xscale("log")
    axis.set_xlabel("MFLOP of one sample (nested layers)")
    axis.set_ylabel("accuracy on test data, %")
    axis.set_title(study.title)
    axis.legend(fontsize=6, ncols=2)
    figure.tight_layout()
    figure.savefig(study.path.with_suffix(".png"), dpi=100)


def command(study: Study, arguments: argparse.Namespace) -> None:
    """The command of each row, seed 0."""
    data = {key: f"../shared/data/{name}" for key, name in study.data.items()}
    for row in study.rows:
        print(f"{row.name}:\n    nested-sparse {shlex.join(row.command(0, 'runs', data))}")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "show", "command"))
    parser.add_argument("study", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("build/study"), help="folder for checkpoints")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", help="only rows whose name holds one of these")
    parser.add_argument("--part", default="1/1", help="k/n: the k-th of n shares of the work")
    arguments = parser.parse_args()
    for path in arguments.study:
        {"run": run, "show": show, "command": command}[arguments.verb](Study(path), arguments)


if __name__ == "__main__":
    main()
