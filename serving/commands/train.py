"""`nested-sparse train`: train a nested checkpoint by a recipe."""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nested_sparse.errors import TrainingError
from nested_sparse.level import ACCURACY, DISAGREEMENT

from .command import PATH, Whole, argument
from .output import print_json, print_line, print_table

if TYPE_CHECKING:
    from nested_sparse.trainer.recipes.recipe import Recipe

STOPPED_EXIT_CODE = 130


@argument("recipe", required=False, default="", help="A TOML file, or the name of a recipe (see --list).")
@click.option("settings", "--set", multiple=True, metavar="TABLE.KEY=VALUE", help="A value that replaces the recipe's.")
@click.option("--seed", type=Whole(0), help="Seed that replaces the recipe's.")
@click.option("--out", type=PATH, default=Path("runs"), help="Folder of checkpoint, state, record and picture.")
@click.option("--fresh", is_flag=True, help="Begin anew, and replace existing files.")
@click.option("--tensorboard", type=PATH, help="Folder of TensorBoard's curves.")
@click.option("list_names", "--list", is_flag=True, help="Name the recipes that come with the package.")
@click.option("--json", is_flag=True, help="Only one JSON line on stdout; the rest on stderr.")
def train(
    recipe: str,
    settings: tuple[str, ...],
    seed: int | None,
    out: Path,
    fresh: bool,
    tensorboard: Path | None,
    list_names: bool,
    json: bool,
) -> None:
    """Train every level by a recipe, and write the checkpoint, with each level's metrics, and a picture.

    The same command resumes a stopped run after its last finished epoch. Of a finished run it only prints the report.

    Example: `nested-sparse train fashion-mnist --set data.directory=../shared/data/fashion_mnist --out runs`
    """
    try:
        from nested_sparse.trainer.recipes.recipe import load_recipe, named_recipes
    except ModuleNotFoundError as error:
        raise TrainingError(f"training needs {error.name}: pip install 'nested-sparse[train]'") from None
    if list_names:
        return _show_names(named_recipes(), json)
    if not recipe:
        raise click.BadParameter("name a recipe, or ask for --list")
    chosen = load_recipe(recipe, [*settings, *([] if seed is None else [f"train.seed={seed}"])])
    figures = _run(chosen, out, fresh, tensorboard)
    if not figures:  # of several processes, only the first has the figures
        return
    if json:
        print_json(figures)
    else:
        _show(figures)


def _run(recipe: Recipe, out: Path, fresh: bool, tensorboard: Path | None) -> dict[str, Any]:
    """Train with progress on stderr; after a signal, a line tells how to resume the run."""
    from nested_sparse.trainer.distributed import rank, start_processes
    from nested_sparse.trainer.progress import progress_on
    from nested_sparse.trainer.recipes.run import run_files, run_recipe
    from nested_sparse.trainer.tensorboard import TensorBoard

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with start_processes(), ExitStack() as stack:
        on_progress: list[Any] = []
        if tensorboard is not None and not rank():
            on_progress.append(stack.enter_context(TensorBoard(tensorboard)))
        bar = stack.enter_context(progress_on(sys.stderr))
        try:
            return run_recipe(recipe, out, fresh=fresh, on_progress=[bar, *on_progress])
        except KeyboardInterrupt:
            stack.close()
            state = run_files(recipe, out).state
            kept = f"{state} holds the last finished epoch" if state.exists() else "no epoch was finished"
            advice = "the same command without --fresh goes on" if state.exists() else "the same command begins anew"
            print(f"nested-sparse: stopped; {kept}; {advice}", file=sys.stderr)
            raise click.exceptions.Exit(STOPPED_EXIT_CODE) from None


def _show(figures: dict[str, Any]) -> None:
    """Print the table of levels, the dense model last, and the paths of the files.

    A level's disagreement is the share of its answers that differ from the densest level's.
    """
    levels = [(str(index), level) for index, level in enumerate(figures["levels"])]
    int8 = figures.get("int8", {})
    levels += [(f"{index}, int8", level) for index, level in enumerate(int8.get("levels", ()))]
    named = [key for _, level in levels for key in level if key not in ("density", "flops", "nbytes")]
    names = list(dict.fromkeys(named)) or [ACCURACY, DISAGREEMENT]
    rows: list[list[Any]] = [
        [
            name,
            f"{level['density']:.2%}",
            f"{level['flops'] / 1e6:.2f}",
            f"{level['nbytes'] / 1024:.0f}",
            *(_shown(metric, level.get(metric)) for metric in names),
        ]
        for name, level in levels
    ]
    dense = figures["dense"]
    scores = [_shown(name, dense.get(name)) for name in names]
    rows.append(["dense", "100.00%", f"{dense['flops'] / 1e6:.2f}", "", *scores])
    facts = figures["data"]
    scored = f"{facts['evaluated_samples']} {facts['evaluated_on']} samples" if "evaluated_on" in facts else "own data"
    title = f"{figures['recipe']}, seed {figures['seed']}: scored on {scored}"
    print_table(title, ["level", "density", "MFLOP", "KB in file", *names], rows)
    wrote = [figures["checkpoint"], *filter(None, [int8.get("checkpoint"), figures["picture"]])]
    print_line(
        f"{figures['epochs']} epochs, {figures['passes']:.1f} passes, {figures['seconds']:.1f} s of training; "
        f"wrote {' and '.join(wrote)}"
    )


def _shown(metric: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2%}" if metric in (ACCURACY, DISAGREEMENT) else f"{value:.4f}"


def _show_names(names: dict[str, str], json: bool) -> None:
    if json:
        print_json(names)
    else:
        print_table("recipes", ["name", "trains"], [list(item) for item in names.items()])
