"""Families latency: each level of the families' ladders against dense ONNX Runtime of the same network, on one thread.

    python tools/families_latency.py docs/results/families.toml --data ../shared/data --keep ../kept

The dense side is the recipe's network as torch.onnx.export writes it for one sample, its output compared with torch's.
The levels are those of the ladder's first kept checkpoint, and of the int8 file that a family names. All contenders of
a family run in turns in one process, on one sample of the test data. The times are written beside the families' file,
and tools/families.py prints them. A family without a kept checkpoint is left out; its times of before stay. So is a
ladder that takes a text piece by piece (`[output] stepwise`): a step of it has no counterpart of the same inputs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tomllib
import torch
from study import Study, add_folders

from nested_sparse.runtime import Session
from nested_sparse.serving.bench.kernels.dense import dense_session, export_dense_fixed
from nested_sparse.serving.bench.kernels.turns import Run, interleaved, timed, verified
from nested_sparse.serving.bench.machine import machine_facts
from nested_sparse.trainer.recipes.recipe import Recipe, load_recipe
from nested_sparse.trainer.recipes.run import made_model
from nested_sparse.whole_file import write_whole

TURN_S = 0.002
"""Least time of a turn, for the sake of runs of microseconds."""
Feeds = Mapping[str, np.ndarray[Any, Any]]


def measured(study: Study, given: Mapping[str, str], options: argparse.Namespace) -> dict[str, Any] | None:
    """Medians in ms: dense_ms, levels_ms and int8_ms; None where no checkpoint is kept."""
    path, recipe = ladder_of(study, given, options)
    if path is None:
        return None
    files = {"levels": path}
    if (int8 := given.get("int8")) and (other := study.first_checkpoint(int8, options)):
        files["int8"] = other
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="nested-sparse-")))
        data = recipe.load_data(recipe.run.seed)
        runs = {"dense 0": dense_run(recipe, data, folder / "dense.onnx")}
        for name, file in files.items():
            session = stack.enter_context(Session(file, threads=1))
            feeds = {spec.name: each.numpy() for spec, each in zip(session.inputs, data.example, strict=True)}
            for level in session.levels:
                runs[f"{name} {level.index}"] = level_run(session, feeds, level.index)
        samples = interleaved(runs, options.rounds)
    medians = {name: round(statistics.median(each), 4) for name, each in samples.items()}
    found = {f"{kind}_ms": [ms for name, ms in medians.items() if name.split()[0] == kind] for kind in files}
    return {"dense_ms": medians["dense 0"], **found, "isa": session.isa}


def ladder_of(study: Study, given: Mapping[str, str], options: argparse.Namespace) -> tuple[Path | None, Recipe]:
    """The checkpoint of the family's ladder, None where none is kept, or it takes texts; and the ladder's recipe."""
    row = study.named[given["ladder"]]
    recipe = load_recipe(row.recipe, row.given(study.files(options.data)))
    return None if recipe.output.stepwise else study.first_checkpoint(row.name, options), recipe


def dense_run(recipe: Recipe, data: Any, path: Path) -> Run:
    """A run of the recipe's network in ONNX Runtime, whose output is that of torch."""
    torch.manual_seed(recipe.run.seed)
    model = made_model(recipe, data, None).eval()
    export_dense_fixed(model, data.example, path)
    session = dense_session(path, 1)
    feeds = {spec.name: each.numpy() for spec, each in zip(session.get_inputs(), data.example, strict=True)}
    with torch.inference_mode():
        answer = model(*data.example)
    expected = answer if isinstance(answer, tuple) else (answer,)
    for ours, torchs in zip(session.run(None, feeds), expected, strict=True):
        verified(recipe.name, ours, torchs.numpy())
    return long_enough(lambda: session.run(None, feeds))


def level_run(session: Session, feeds: Feeds, level: int) -> Run:
    """A run of a level."""
    return long_enough(lambda: session.run(feeds, level=level))


def long_enough(work: Any) -> Run:
    """`work` as a run of as many calls as take TURN_S, after one that does not count."""
    work()
    return timed(work, calls=max(1, round(1e3 * TURN_S / timed(work)())), warm=True)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", type=Path, help="file that names the families")
    add_folders(parser)
    parser.add_argument("--rounds", type=int, default=50, help="timed runs of each level")
    options = parser.parse_args()
    path = options.families.with_suffix(".times.json")
    families = json.loads(path.read_text())["families"] if path.exists() else {}
    facts = {**machine_facts(), "threads": 1, "batch": 1}
    for given in tomllib.loads(options.families.read_text())["family"]:
        found = measured(Study(options.families.parent / given["study"]), given, options)
        print(f"{given['name']}: {found or 'no checkpoint is kept, or it takes texts'}", file=sys.stderr, flush=True)
        if found is not None:
            families[given["name"]] = found | {"cpu": facts["cpu"], "rounds": options.rounds}
        write_whole(path, (json.dumps({**facts, "families": families}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
