"""Study: the rows of docs/results.md, each trained by `nested-sparse train`, and the tables and pictures made of them.

    python tools/study.py run docs/results/fashion-mnist.toml --data ../shared/data --seeds 0 1 2 --keep ../kept
    python tools/study.py time docs/results/fashion-mnist.toml --keep ../kept
    python tools/study.py show docs/results/fashion-mnist.toml

`run` skips finished rows, writes one JSON line for each finished run beside the study's file, and can be stopped and
started again at any time; several calls can share the work (--part 1/2), and several processes, one for each GPU, a
training (--processes). --keep copies each checkpoint to a folder of yours, where each study has its own. `time`
measures every level of the first checkpoint of each row on this machine, by the runtime, in turns, on one thread, and
writes the times beside the study's file. `fill` measures the disagreement of kept checkpoints whose lines lack it, from
older versions, and stores it in both. `show` prints the tables in Markdown and saves the pictures. `command` prints the
command of each row. Needs Python 3.11 or newer.

[metric] has the name of the metric that the tables show, `share`, true where it is from 0 to 1, and
`higher_is_better`, false of an error; accuracy is the default. A [[row]] has a name, a kind (dense, separate or
nested) and settings of the recipe. `compare` names one row or more, to which its figures are related; `teacher` names
the row whose checkpoint of the same seed teaches it; `line` is the name of a method, whose rows are joined in the
picture against budget; `seeds` is the most seeds that it is run with. A row with `int8_of` is not trained. Its file is
the one that a run of that row with the same seed wrote beside its own, by `output.int8_beside`; without one
tools/int8_accuracy.py makes it from the checkpoint of that run.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomllib
from study_report import Finished, Metric, draw, tables

from nested_sparse.runtime import Session
from nested_sparse.serving.bench.kernels.turns import Run, interleaved, timed
from nested_sparse.serving.bench.machine import machine_facts
from nested_sparse.whole_file import write_whole

FIGURES = ("levels", "dense", "data", "epochs", "passes", "seconds")
"""Figures of a run that its line keeps."""
EPOCH_SAMPLES = "data.epoch_samples"
INT8_BESIDE = "*-int8.safetensors"
"""Name of the file that a run writes beside its own; see [output] int8_beside of a recipe."""
SAME_SCORE = 0.002
"""Largest difference between a line and its checkpoint, beside one answer: torch and the runtime round otherwise."""


@dataclass(frozen=True)
class Row:
    """One line of the table, as the module's docstring says; `compare` is a list here."""

    name: str
    kind: str
    recipe: str
    settings: dict[str, Any]
    seeds: int = 3
    compare: tuple[str, ...] = ()
    teacher: str = ""
    line: str = ""
    int8_of: str = ""

    @property
    def slug(self) -> str:
        """The name as the name of a folder."""
        return self.name.replace(" ", "-").replace("%", "").replace("/", "-of-")

    def command(self, seed: int, out: str, data: dict[str, str]) -> list[str]:
        """Arguments of `nested-sparse` that train the row."""
        return ["train", self.recipe, *self.sets(data), "--seed", str(seed), "--out", out]

    def sets(self, data: dict[str, str]) -> list[str]:
        """The settings of the row and of the data as arguments."""
        return [word for setting in self.given(data) for word in ("--set", setting)]

    def given(self, data: dict[str, str]) -> list[str]:
        """The settings of the row and of the data, as `load_recipe` takes them."""
        given = {**self.settings, **data}
        names_first = sorted(given, key=lambda key: not key.endswith(".name"))  # a name drops what was set before
        return [f"{key}={_toml(given[key])}" for key in names_first]


def _toml(value: Any) -> str:
    return json.dumps(value)  # numbers, strings, booleans and lists are alike in both


def _merged(common: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """The row's settings over the common ones; a row that sets a table's name sets all keys of that table."""
    own = row.get("settings", {})
    named = {key.partition(".")[0] for key in own if key.endswith(".name")}
    return {key: value for key, value in common.items() if key.partition(".")[0] not in named} | own


def _row(content: dict[str, Any], row: dict[str, Any]) -> Row:
    compare = row.get("compare", ())
    return Row(
        row["name"],
        row["kind"],
        content["recipe"],
        _merged(content.get("settings", {}), row),
        row.get("seeds", 3),
        (compare,) if isinstance(compare, str) else tuple(compare),
        row.get("teacher", ""),
        row.get("line", ""),
        row.get("int8_of", ""),
    )


class Study:
    """A file of rows, and the finished runs and the times beside it."""

    def __init__(self, path: Path) -> None:
        self.path, self.results, self.timed = path, path.with_suffix(".jsonl"), path.with_suffix(".times.json")
        content = tomllib.loads(path.read_text())
        self.title, self.data = content["title"], content["data"]
        self.metric = Metric(**content.get("metric", {}))
        self._epoch_samples = content.get("settings", {}).get(EPOCH_SAMPLES)
        self.rows = [_row(content, row) for row in content["row"]]
        self.named = {row.name: row for row in self.rows}
        for row, given in zip(self.rows, content["row"], strict=True):
            for other in (*row.compare, row.teacher, row.int8_of):
                if other and other not in self.named:
                    sys.exit(f"{path}: row '{row.name}': there is no row '{other}'")
            if row.int8_of and (self.named[row.int8_of].int8_of or {"settings", "teacher"} & given.keys()):
                sys.exit(f"{path}: row '{row.name}': int8_of names a row that is trained, and goes without settings")

    def files(self, folder: Path) -> dict[str, str]:
        """The settings that name the data's files in `folder`."""
        return {key: str(folder / name) for key, name in self.data.items()}

    def int8_command(self, row: Row, float32: Path, data: Path, made: Path) -> list[str]:
        """Arguments of int8_accuracy.py, which write `made` from `float32`, a checkpoint of the row's `int8_of`."""
        of = self.named[row.int8_of]
        return [of.recipe, str(float32), *of.sets(self.files(data)), "--methods", "mse", "--out", str(made)]

    def runs(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Finished runs by row and seed."""
        if not self.results.exists():
            return {}
        lines = [json.loads(line) for line in self.results.read_text().splitlines()]
        return {(line["row"], line["seed"]): line for line in lines}

    def finished(self) -> list[Finished]:
        """The rows that have runs. Lines of older versions may lack figures, such as disagreement."""
        runs, found = self.runs(), []
        for row in self.rows:
            lines = {seed: self._comparable(line) for (name, seed), line in sorted(runs.items()) if name == row.name}
            if lines:
                found.append(Finished(row.name, row.kind, row.line, row.compare, lines))
        return found

    def _comparable(self, line: dict[str, Any]) -> dict[str, Any]:
        """`line` with its passes in epochs of the study: a row may have shorter ones."""
        samples = line["settings"].get(EPOCH_SAMPLES)
        if samples == self._epoch_samples:
            return line
        whole = line["data"]["train_samples"]
        return {**line, "passes": line["passes"] * (samples or whole) / (self._epoch_samples or whole)}

    def finish(self, row: Row, seed: int, figures: dict[str, Any]) -> None:
        """Add a finished run's figures."""
        other = {key: name for key in ("teacher", "int8_of") if (name := getattr(row, key))}
        kept = {key: figures[key] for key in FIGURES}
        settings = self.named[row.int8_of or row.name].settings
        line = {"row": row.name, "seed": seed, **kept, **other, "settings": settings}
        with self.results.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def rewrite(self, name: str, seed: int, line: dict[str, Any]) -> None:
        """Put `line` in the place of the finished run's."""
        present = {**self.runs(), (name, seed): line}  # read again: a run may have ended meanwhile
        write_whole(self.results, "".join(json.dumps(each) + "\n" for each in present.values()).encode())

    def of_data(self, row: Row, data: Path) -> list[str]:
        """The settings of the row's data, as `load_recipe` takes them. data: the folder of its files."""
        return [setting for setting in row.given(self.files(data)) if setting.startswith("data.")]

    def folder(self, row: Row, seed: int, out: Path) -> Path:
        """The folder of a run's files."""
        return out / self.path.stem / f"{row.slug}-{seed}"

    def kept(self, row: Row, seed: int, keep: Path) -> Path:
        """The copy of a run's checkpoint in `keep`, which several studies may share."""
        return keep / self.path.stem / f"{row.slug}-{seed}.safetensors"

    def checkpoint(self, name: str, seed: int, arguments: argparse.Namespace) -> Path | None:
        """The checkpoint of a finished run: the kept one, else the one in the run's folder; None if there is none."""
        row = self.named[name]
        kept = [] if arguments.keep is None else [self.kept(row, seed, arguments.keep)]
        found = [*kept, *sorted(self.folder(row, seed, arguments.out).glob("*.safetensors"))]
        return next((path for path in found if path.is_file() and not path.match(INT8_BESIDE)), None)

    def first_checkpoint(self, name: str, arguments: argparse.Namespace) -> Path | None:
        """The checkpoint of the first seed of the row that has one; None if there is none."""
        seeds = sorted(seed for row, seed in self.runs() if row == name)
        return next((path for seed in seeds if (path := self.checkpoint(name, seed, arguments))), None)


def run(study: Study, arguments: argparse.Namespace) -> None:
    """Train what is missing, seed by seed, so that every row has its first figure early."""
    part, parts = map(int, arguments.part.split("/"))
    work = [(row, seed) for seed in arguments.seeds for row in study.rows if seed < row.seeds]
    if arguments.rows:
        work = [(row, seed) for row, seed in work if any(word in row.name for word in arguments.rows)]
    for row, seed in work[part - 1 :: parts]:
        if (row.name, seed) in study.runs():
            continue
        source = None
        if other := row.teacher or row.int8_of:
            source = study.checkpoint(other, seed, arguments)
            if source is None or (other, seed) not in study.runs():
                print(f"{row.name}, seed {seed}: waits for a checkpoint of '{other}'", file=sys.stderr, flush=True)
                continue
        print(f"{row.name}, seed {seed}", file=sys.stderr, flush=True)
        make = _quantised if row.int8_of else _trained
        figures = make(study, row, seed, source, arguments)
        if figures is None:
            continue
        if arguments.keep is not None:
            kept = study.kept(row, seed, arguments.keep)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(figures["checkpoint"], kept)
        study.finish(row, seed, figures)


def launcher(processes: int) -> list[str]:
    """Arguments of Python before the name of the module that trains; torchrun's where several processes share a run."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*(several if processes > 1 else ()), "-m"]


def _trained(
    study: Study, row: Row, seed: int, teacher: Path | None, arguments: argparse.Namespace
) -> dict[str, Any] | None:
    """The figures of a run of `nested-sparse train`; None where it failed."""
    files = study.files(arguments.data) | ({} if teacher is None else {"teacher.checkpoint": str(teacher)})
    command = row.command(seed, str(study.folder(row, seed, arguments.out)), files)
    printed = _printed(
        [sys.executable, *launcher(arguments.processes), "nested_sparse.serving.cli", *command, "--json"]
    )
    return None if printed is None else dict(json.loads(printed))


def _quantised(
    study: Study, row: Row, seed: int, float32: Path | None, arguments: argparse.Namespace
) -> dict[str, Any] | None:
    """The figures of `float32` in int8, which takes no training beside that of its row; None where it failed."""
    from nested_sparse.trainer.recipes.written import level_figures

    assert float32 is not None
    beside = sorted(study.folder(study.named[row.int8_of], seed, arguments.out).glob(INT8_BESIDE))
    made = beside[0] if beside else study.folder(row, seed, arguments.out) / "int8.safetensors"
    if not beside:
        made.parent.mkdir(parents=True, exist_ok=True)
        tool = str(Path(__file__).with_name("int8_accuracy.py"))
        if _printed([sys.executable, tool, *study.int8_command(row, float32, arguments.data, made)]) is None:
            return None
    return study.runs()[row.int8_of, seed] | {"levels": level_figures(made), "checkpoint": str(made)}


def _printed(command: list[str]) -> bytes | None:
    """The output of the command; None, and a word about it, where it failed."""
    done = subprocess.run(command, stdout=subprocess.PIPE)
    if done.returncode:
        print(f"failed: {shlex.join(command)}", file=sys.stderr, flush=True)
        return None
    return done.stdout


def fill(study: Study, arguments: argparse.Namespace) -> None:
    """Add the disagreement to the lines that lack it and whose checkpoint is kept, and to these checkpoints."""
    from nested_sparse.amend import store_metrics
    from nested_sparse.trainer import file_metrics
    from nested_sparse.trainer.recipes.recipe import load_recipe

    rows = {row.name: row for row in study.rows}
    for (name, seed), line in study.runs().items():
        path = study.checkpoint(name, seed, arguments) if name in rows else None
        if path is None or all("disagreement" in level for level in line["levels"]):
            continue
        recipe = load_recipe(rows[name].recipe, study.of_data(rows[name], arguments.data))
        metrics, quality = file_metrics(path, recipe.load_data(seed).scored(), task=recipe.task), study.metric.name
        stated = [level[quality] for level in line["levels"]]
        if max(abs(a - b) for a, b in zip(metrics[quality], stated, strict=True)) > SAME_SCORE:
            sys.exit(f"{path}: its levels score {metrics[quality]}, the line of '{name}', seed {seed}, says {stated}")
        for level, share in zip(line["levels"], metrics["disagreement"], strict=True):
            level["disagreement"] = share
        store_metrics(path, {**metrics, quality: stated})
        print(f"{name}, seed {seed}: {metrics['disagreement']}", file=sys.stderr, flush=True)
        study.rewrite(name, seed, line)


def time(study: Study, arguments: argparse.Namespace) -> None:
    """Measure the levels of each row's first checkpoint: one sample, one thread, all rows in turns in one process."""
    with ExitStack() as stack:
        runs: dict[str, Run] = {}
        levels: dict[str, int] = {}
        for row in study.finished():
            path = study.first_checkpoint(row.name, arguments)
            if path is None:
                print(f"{row.name}: no checkpoint is kept", file=sys.stderr)
                continue
            session = stack.enter_context(Session(path, threads=1))
            levels[row.name] = len(session.levels)
            runs |= {f"{row.name}\n{level.index}": _timed(session, level.index) for level in session.levels}
            isa = session.isa
        if not runs:
            sys.exit(f"{study.path}: no checkpoint of a finished run; name their folder with --keep or --out")
        samples = interleaved(runs, arguments.rounds)
    medians = {
        name: [round(statistics.median(samples[f"{name}\n{level}"]), 4) for level in range(count)]
        for name, count in levels.items()
    }
    facts = {**machine_facts(), "isa": isa, "threads": 1, "batch": 1, "rounds": arguments.rounds}
    study.timed.write_text(json.dumps({**facts, "rows": medians}, indent=1) + "\n")


def _timed(session: Session, level: int) -> Run:
    """A run of a level on one sample of random values, from a generator of a fixed seed."""
    random = np.random.default_rng(0)
    feeds = {spec.name: random.random((1, *spec.example_shape[1:])).astype(spec.dtype) for spec in session.inputs}
    return timed(lambda: session.run(feeds, level=level))


def show(study: Study, arguments: argparse.Namespace) -> None:
    """The tables, and the pictures beside the study's file."""
    rows = study.finished()
    times = json.loads(study.timed.read_text()) if study.timed.exists() else None
    print("\n".join(tables(rows, times, study.metric)))
    draw(study.title, rows, times, study.path.with_suffix(".png"), study.metric)


def command(study: Study, arguments: argparse.Namespace) -> None:
    """The command of each row, seed 0."""
    for row in study.rows:
        if row.int8_of:
            float32 = Path(f"CHECKPOINT OF '{row.int8_of}'")
            words = [
                "python",
                "tools/int8_accuracy.py",
                *study.int8_command(row, float32, arguments.data, Path("int8.safetensors")),
            ]
        else:
            taught = {"teacher.checkpoint": f"CHECKPOINT OF '{row.teacher}'"} if row.teacher else {}
            words = ["nested-sparse", *row.command(0, "runs", {**study.files(arguments.data), **taught})]
        print(f"{row.name}:\n    {shlex.join(words)}")


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the folders of data, runs and checkpoints."""
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("build/study"), help="folder of the runs")
    parser.add_argument("--keep", type=Path, help="folder outside the repository for a copy of each checkpoint")


def main() -> None:
    """Parse the command line."""
    verbs = {"run": run, "fill": fill, "time": time, "show": show, "command": command}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=verbs)
    parser.add_argument("study", type=Path, nargs="+")
    add_folders(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", help="only rows whose name holds one of these")
    parser.add_argument("--part", default="1/1", help="k/n: the k-th of n shares of the work")
    parser.add_argument("--processes", type=int, default=1, help="processes of each training, by torchrun: one per GPU")
    parser.add_argument("--rounds", type=int, default=50, help="timed runs of each level")
    arguments = parser.parse_args()
    for path in arguments.study:
        verbs[arguments.verb](Study(path), arguments)


if __name__ == "__main__":
    main()
