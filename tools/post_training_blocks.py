"""Post-training of blocks: the bits per byte that each pattern costs a small GPT that was trained dense.

    python tools/post_training_blocks.py --data ../shared/data [--steps 3000] [--density 0.25]

The net and the data are those of docs/results/blocks.toml. It is trained dense by a plain loop (AdamW, one cycle), then
given levels by nest_pretrained from 256 windows, without training. Prints a Markdown table: of each pattern, with rows
in order and shuffled, the bits per byte of the test file at that share of weights, and the difference from single
weights in percent. Levels that are trained lose less: that is the study's part.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
from torch import nn

from nested_sparse.trainer import metrics_per_level, nest_pretrained
from nested_sparse.trainer.data.datasets import TrainingData
from nested_sparse.trainer.recipes.recipe import load_recipe
from nested_sparse.trainer.tasks import Language
from nested_sparse.trainer.zoo import GPT

PATTERNS = (
    ("unstructured", False),
    *((f"block{rows}x1", shuffled) for rows in (16, 32, 64) for shuffled in (False, True)),
)
TASK = Language()


def trained(data: TrainingData, steps: int, width: int) -> nn.Module:
    """The dense net."""
    model = GPT(width=width, depth=4, heads=6, longest=128, dropout=0.1).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    batches = itertools.chain.from_iterable(map(data.batches, itertools.count()))
    for inputs, targets in itertools.islice(batches, steps):
        loss = TASK.loss(model(inputs), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        cycle.step()
    return model.eval()


def main() -> None:
    """Parse the command line, train, and print a line for each pattern as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--density", type=float, default=0.25)
    parser.add_argument("--samples", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = arguments.data / "multi30k_en_de"
    files = {"train_file": "train.en.txt.gz", "test_file": "test_2016_flickr.en.txt.gz"}
    data = load_recipe("bytes", [f'data.{key}="{folder / name}"' for key, name in files.items()]).load_data(0)
    model = trained(data, arguments.steps, arguments.width)
    scored = list(data.scored())
    print(f"| pattern | bits per byte, {arguments.density:.0%} of the weights | above single weights |\n|---|---|---|")
    alone = 0.0
    for pattern, shuffled in (("dense", False), *PATTERNS):
        density, name = (1.0, "unstructured") if pattern == "dense" else (arguments.density, pattern)
        options = {"densities": (density,), "pattern": name, "row_shuffle": shuffled}
        net = nest_pretrained(model, data.batches(0), samples=arguments.samples, **options)
        (bits,) = metrics_per_level(net, scored, task=TASK)[TASK.quality]
        alone = bits if pattern == "unstructured" else alone
        above = f"{100 * (bits / alone - 1):+.2f} %" if alone else ""
        print(f"| {pattern}{', shuffled' if shuffled else ''} | {bits:.4f} | {above} |", flush=True)


if __name__ == "__main__":
    main()
