"""Families served: the families' ladders from one server, all asked at once, elastic, while other load comes and goes.

    python tools/families_served.py docs/results/families.toml --data ../shared/data --keep ../kept --seconds 600

Each family with a kept checkpoint is a model of one `nested-sparse serve`. Requests are samples of its test data, one
each, of Poisson arrivals: all families together ask for --load of what one thread could compute at the densest
levels, in equal parts, but for --most requests a second of a family. A family's SLO is three times the time of its
densest level, and at least 20 ms above it, as of `bench serving`. The co-runner is busy in the middle third of each
half minute. --first names the study whose model goes before the others. Every answer is compared with the output of
the level that it names. A row says what came of a family's requests: shares in time, lost ones and errors, percentiles
in ms, and the metric that the file states, as a mean over the levels that answered, with that of the densest level
behind it. Exit code 1: an error, or a wrong answer.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tomllib
from families_latency import ladder_of
from study import Study, add_folders

from nested_sparse.runtime import Session
from nested_sparse.serving.bench.serving.capacity import default_slo_ms, service_times_ms
from nested_sparse.serving.bench.serving.cell import TRACES, Cell, Load, segments
from nested_sparse.serving.bench.serving.co_runner import KINDS, co_runner
from nested_sparse.serving.bench.serving.experiment import preferred
from nested_sparse.serving.bench.serving.item import Item
from nested_sparse.serving.bench.serving.open_loop import Arrival, Event, open_loop
from nested_sparse.serving.bench.serving.reference import Graded, Reference, make_reference
from nested_sparse.serving.bench.serving.score import score_of
from nested_sparse.serving.bench.serving.server_process import running_server
from nested_sparse.serving.bench.serving.workload import Workload
from nested_sparse.trainer.recipes.recipe import Recipe

ITEMS = 16
ROUND_S = 30.0
"""Longest time between two looks at the answers, which are kept until then."""


@dataclass
class Served:
    """A family in the load. quality: each level's metric as the file states it; graded: its requests."""

    name: str
    model: str
    items: Sequence[Item]
    reference: Reference
    service_ms: Sequence[float]
    metric: str
    quality: Sequence[float]
    graded: list[Graded] = field(default_factory=list)

    @property
    def slo_ms(self) -> float:
        """As of `bench serving`."""
        return default_slo_ms(self.service_ms)


def prepared(given: dict[str, str], folder: Path, stack: ExitStack, options: argparse.Namespace) -> Served | None:
    """The family, with its checkpoint in `folder` under its own name; None where none is kept, or it takes texts.

    stack: closes the session of the reference.
    """
    study = Study(options.families.parent / given["study"])
    kept, recipe = ladder_of(study, given, options)
    if kept is None:
        return None
    path = folder / f"{study.path.stem}-{len(list(folder.iterdir()))}.safetensors"
    shutil.copyfile(kept, path)
    session = stack.enter_context(Session(path, threads=1))
    workload = Workload(given["name"], items_of(recipe, session), None, path)
    reference = make_reference(workload, session)
    quality = [level.metrics[study.metric.name] for level in session.levels]
    service_ms = service_times_ms(session, 1)
    return Served(given["name"], path.stem, workload.items, reference, service_ms, study.metric.name, quality)


def items_of(recipe: Recipe, session: Session) -> list[Item]:
    """Test samples, a request each."""
    data = recipe.load_data(recipe.run.seed)
    names = [spec.name for spec in session.inputs]
    if recipe.output.fixed_batch:
        return [dict(zip(names, (each.numpy() for each in data.example), strict=True))]
    inputs, _ = next(iter(data.scored()))
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    return [
        {name: each[place : place + 1].numpy() for name, each in zip(names, tensors, strict=True)}
        for place in range(min(ITEMS, len(tensors[0])))
    ]


def load_all(families: Sequence[Served], options: argparse.Namespace) -> None:
    """Serve all, send all arrivals, and grade the answers."""
    folder = [str(options.folder / f"{each.model}.safetensors") for each in families]
    round_s = min(ROUND_S, options.seconds)
    rounds = round(options.seconds / round_s)
    turns: list[list[list[Arrival]]] = []
    for each in families:
        rate = min(options.most, options.load * 1e3 / len(families) / each.service_ms[-1])
        load = Load(rate, round_s, rounds)
        turns.append(segments(Cell(each.model, "none"), TRACES["poisson"], load, len(each.items), options.seed))
    first = [f"--priority={each.model}=1" for each in families if each.model.rpartition("-")[0] == options.first]
    if options.first and not first:
        sys.exit(f"--first {options.first}: no study of that name has a checkpoint in the folder of --keep")
    with running_server(Path(folder[0]), [*folder[1:], "--threads", "1", *first]) as server, ExitStack() as stack:
        neighbour = stack.enter_context(co_runner(options.co_runner, [server.pid]))
        stack.enter_context(preferred())
        events = [Event(load.span.begin_s, neighbour.start), Event(load.span.end_s, neighbour.stop)]
        for turn in range(rounds):
            loads = [
                open_loop(server.address, each.model, arrivals[turn], each.items, each.slo_ms, events=of_first)
                for each, arrivals, of_first in zip(families, turns, [events, *[()] * (len(families) - 1)], strict=True)
            ]
            found = asyncio.run(together(loads))
            for each, outcomes in zip(families, found, strict=True):
                each.graded += [each.reference.grade(outcome) for outcome in outcomes]
            statuses = Counter(outcome.status for outcomes in found for outcome in outcomes)
            share = statuses["ok"] / max(1, statuses.total())
            print(f"round {turn + 1} of {rounds}: {share:.1%} in time", file=sys.stderr, flush=True)


async def together(loads: Sequence[Any]) -> list[Any]:
    """The outcomes of all loads."""
    return list(await asyncio.gather(*loads))


def row_of(served: Served) -> tuple[str, int]:
    """The row of the table, and the number of errors and wrong answers."""
    score = score_of(served.graded)
    answered = Counter(score.levels)
    mean = sum(served.quality[level] * count for level, count in answered.items()) / max(1, answered.total())
    lost = score.shed + score.late + score.expired
    cells = [
        served.name,
        f"{served.slo_ms:.0f}",
        str(score.offered),
        f"{100 * score.attainment:.2f}",
        f"{lost} / {score.errors} / {score.wrong}",
        f"{score.p50_ms or 0:.1f}",
        f"{score.p99_ms or 0:.1f}",
        ", ".join(f"{level}: {count / max(1, answered.total()):.0%}" for level, count in score.levels.items()),
        f"{served.metric} {mean:.4f} ({served.quality[-1]:.4f})",
    ]
    return f"| {' | '.join(cells)} |", score.errors + score.wrong


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", type=Path, help="file that names the families")
    add_folders(parser)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--load", type=float, default=0.5, help="share of one thread at the densest levels")
    parser.add_argument("--most", type=float, default=30.0, help="most requests a second of a family")
    parser.add_argument("--first", default="", help="name of the study whose requests go first")
    parser.add_argument("--co-runner", choices=KINDS, default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = options.folder = Path(stack.enter_context(TemporaryDirectory(prefix="nested-sparse-")))
        given = tomllib.loads(options.families.read_text())["family"]
        found = [prepared(each, folder, stack, options) for each in given]
        families = [each for each in found if each is not None]
        if not families:
            sys.exit(f"{options.families}: no family has a checkpoint in the folder of --keep")
        load_all(families, options)
    rows = [row_of(each) for each in families]
    heads = "family | SLO, ms | requests | in time, % | lost / errors / wrong | p50, ms | p99, ms | levels | metric"
    print(f"| {heads} |")
    print("|---" * (1 + heads.count("|")) + "|")
    print("\n".join(row for row, _ in rows))
    sys.exit(any(faults for _, faults in rows))


if __name__ == "__main__":
    main()
