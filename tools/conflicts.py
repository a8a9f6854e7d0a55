"""Conflicts: gradients of a denser level that oppose those of a sparser level, on the weights of the sparser one.

    python tools/conflicts.py fashion-mnist --set data.directory=FOLDER --after 4 9 16 28
    python tools/conflicts.py fashion-mnist --set data.directory=FOLDER --state runs/fashion-mnist.state

Trains by the recipe and measures after the named epochs, or measures the net in the state of a run that goes on. For
each layer and pair of levels it prints, over --batches training batches: the percentage of batches with a negative
cosine between the two levels' gradients of the same batch; the mean of these cosines; and the cosine between the sums
of the gradients over all batches, which has less of the noise of single batches. Gradients are those of the labels'
loss; with --soft-weight, sparser levels learn the soft labels of the densest level, too. The last line is all layers
together. The training is not influenced.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nested_sparse.trainer import EpochReport
from nested_sparse.trainer.batch import device_of, moved, run
from nested_sparse.trainer.model.layers import unique_weights
from nested_sparse.trainer.model.modes import evaluating
from nested_sparse.trainer.model.preserved import preserved, preserved_generators
from nested_sparse.trainer.onednn import sound_gradients
from nested_sparse.trainer.recipes.recipe import Recipe, load_recipe
from nested_sparse.trainer.recipes.run import start, train_by
from nested_sparse.trainer.stage import Work
from nested_sparse.trainer.state import load_state

ALL = "all layers"
Pair = tuple[int, int]
"""A sparser and a denser level."""


@dataclass(frozen=True)
class Conflict:
    """Of one layer and pair of levels: negative: share of batches with a negative cosine, in [0, 1].

    cosine: mean over batches, in [-1, 1]. cosine_of_sums: between the sums of the gradients over all batches.
    """

    negative: float
    cosine: float
    cosine_of_sums: float


@dataclass
class _Tally:
    """Sums over batches for one layer and pair."""

    batches: int = 0
    negative: int = 0
    cosine: float = 0.0
    sums: tuple[Tensor, Tensor] | None = None

    def add(self, sparser: Tensor, denser: Tensor) -> None:
        """Count the two levels' gradients of a batch, (n,) each."""
        cosine = cosine_of(sparser, denser)
        self.batches, self.negative, self.cosine = self.batches + 1, self.negative + (cosine < 0), self.cosine + cosine
        earlier = (torch.zeros_like(sparser),) * 2 if self.sums is None else self.sums
        self.sums = earlier[0] + sparser, earlier[1] + denser

    def result(self) -> Conflict:
        """The figures of all batches."""
        assert self.sums is not None
        return Conflict(self.negative / self.batches, self.cosine / self.batches, cosine_of(*self.sums))


def cosine_of(a: Tensor, b: Tensor) -> float:
    """Cosine of the angle between two vectors; 0 where one of them is 0."""
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


def conflicts(
    work: Work, batches: Iterable[tuple[Any, Any]], soft_weight: float = 0.0
) -> dict[str, dict[Pair, Conflict]]:
    """The conflicts of each layer, by pair of levels, in train mode; ALL has the layers together.

    Only sparse layers count. Weights, buffers, gradients, level, mode and random generators stay as they are.
    """
    net = work.net
    layers = [layer for layer in unique_weights(net.nested_layers().values()) if not layer.dense]
    pairs = list(itertools.combinations(range(net.level_count), 2))
    tallies = {name: {pair: _Tally() for pair in pairs} for name in [*(layer.name for layer in layers), ALL]}
    level, kept = net.level, [parameter.grad for parameter in net.parameters()]
    try:
        with (
            evaluating(net),
            preserved(net.model) as state,
            preserved_generators(),
            sound_gradients(net),
            torch.enable_grad(),
        ):
            net.train()
            for inputs, targets in batches:
                gradients = list(_gradients(work, layers, inputs, targets, soft_weight))
                state.restore()
                for pair in pairs:
                    parts = []
                    for number, layer in enumerate(layers):
                        own = layer.mask(pair[0])
                        parts.append([gradients[each][number][own] for each in pair])
                        tallies[layer.name][pair].add(*parts[-1])
                    tallies[ALL][pair].add(*(torch.cat(each) for each in zip(*parts, strict=True)))
    finally:
        net.set_level(level)
        for parameter, gradient in zip(net.parameters(), kept, strict=True):
            parameter.grad = gradient
    return {name: {pair: tally.result() for pair, tally in each.items()} for name, each in tallies.items()}


def _gradients(
    work: Work, layers: list[Any], inputs: Any, targets: Any, soft_weight: float
) -> Iterator[tuple[Tensor, ...]]:
    """The gradient of each layer's weights, for each level, the sparsest first."""
    net, device = work.net, device_of(work.net)
    inputs, targets = moved(inputs, device), moved(targets, device)
    soft_labels = None
    if soft_weight:
        net.set_level(-1)
        with torch.no_grad():
            soft_labels = run(net, inputs)
    for level in range(net.level_count):
        net.set_level(level)
        taught = soft_labels if level < net.level_count - 1 else None
        loss = work.mixed_loss(run(net, inputs), targets, taught, soft_weight)
        yield torch.autograd.grad(loss, [layer.values for layer in layers])


def table(found: dict[str, dict[Pair, Conflict]]) -> str:
    """In Markdown: percentage of negative cosines, mean cosine, cosine of the sums."""
    pairs = list(found[ALL])
    lines = [f"| layer | {' | '.join(f'{sparser} against {denser}' for sparser, denser in pairs)} |"]
    lines.append("|---" * (len(pairs) + 1) + "|")
    for name, of_layer in found.items():
        cells = [f"{100 * c.negative:.0f} %, {c.cosine:+.2f}, {c.cosine_of_sums:+.2f}" for c in of_layer.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def measured(recipe: Recipe, options: argparse.Namespace) -> Iterator[tuple[int, str]]:
    """The number of finished epochs and the table, at each moment that is asked for."""
    data, net = start(recipe)
    work = Work(net, recipe.config, recipe.loss_fn)

    def shown() -> str:
        return table(conflicts(work, itertools.islice(data.batches(0), options.batches), options.soft_weight))

    if options.state is not None:
        state = load_state(options.state)
        net.load_state_dict(state["processes"][0]["model"])
        yield len(state["reports"]), shown()
        return
    found: list[tuple[int, str]] = []

    def listen(report: EpochReport) -> None:
        if report.done_epochs in options.after:
            found.append((report.done_epochs, shown()))

    with tempfile.TemporaryDirectory() as folder:
        train_by(recipe, data, net, Path(folder) / "run.state", listen)
    yield from found


def main() -> None:
    """Print a table for each moment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name or file of the recipe")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="table.key=value of the recipe")
    parser.add_argument("--after", type=int, nargs="+", default=[], help="epochs after which to measure")
    parser.add_argument("--state", type=Path, help="state file of a run of this recipe, in place of a training")
    parser.add_argument("--batches", type=int, default=50, help="training batches of one measurement")
    parser.add_argument("--soft-weight", type=float, default=0.0, help="share of the densest level's soft labels")
    options = parser.parse_args()
    for epochs, text in measured(load_recipe(options.recipe, options.settings), options):
        print(f"after {epochs} epochs, {options.batches} batches:\n\n{text}\n", flush=True)


if __name__ == "__main__":
    main()
