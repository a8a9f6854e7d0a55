"""Int8 accuracy: each level of a float32 file against int8 files of the same weights, measured by running the files.

    python tools/int8_accuracy.py fashion-mnist docs/examples/fashion-mnist.safetensors \
        --set data.directory=FOLDER --methods minmax percentile mse
    python tools/int8_accuracy.py fashion-mnist docs/examples/fashion-mnist.safetensors \
        --set data.directory=FOLDER --methods mse --out docs/examples/fashion-mnist-int8.safetensors

FILE is what the recipe trained. The tool rebuilds the recipe's net from it, quantises it with each method on training
samples, and prints a table in Markdown. --fine-tune N first trains N epochs with rounding. --out keeps the last file,
with its measured accuracies and disagreements inside.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nested_sparse.amend import store_metrics
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.runtime import Session
from nested_sparse.trainer import NestedModel, export, file_metrics, fine_tune_int8
from nested_sparse.trainer.config import TrainConfig
from nested_sparse.trainer.data.training_data import TrainingData
from nested_sparse.trainer.recalibrate import Moments
from nested_sparse.trainer.recipes.recipe import Recipe, load_recipe
from nested_sparse.trainer.recipes.run import start
from nested_sparse.trainer.tasks.hits import hits


def restore(net: NestedModel, path: Path, example: tuple[Tensor, ...]) -> None:
    """Give `net` the weights, masks, biases and norms of the file that was exported from such a net.

    A file holds each norm folded to a scale and a shift, and so does `net` then; every norm must follow a layer.
    """
    norm_of = _norms_after_layers(net, example)
    with Checkpoint.open(path) as checkpoint, torch.no_grad():
        for name, layer in net.nested_layers().items():
            weight, norms = checkpoint.load_layer(name)
            layer.values.copy_(torch.from_numpy(weight.values).reshape(layer.values.shape))
            layer.first_level.copy_(torch.from_numpy(weight.first_level))
            if weight.permutation is not None:
                layer.permutation = torch.from_numpy(weight.permutation)
            for level, (scale, shift) in enumerate(torch.from_numpy(norms)):
                if name in norm_of:
                    _set_norm(norm_of[name].norms[level], scale, shift)
                if layer.biases is not None:
                    layer.biases[level] = 0 if name in norm_of else shift


def _norms_after_layers(net: NestedModel, example: tuple[Tensor, ...]) -> dict[str, Any]:
    """The level norm that reads each layer's output, by the layer's name."""
    outputs: dict[int, str] = {}
    kept: list[Tensor] = []  # so that no two outputs have the same id
    found: dict[str, Any] = {}

    def note(name: str) -> Any:
        def noted(_: nn.Module, __: Any, output: Tensor) -> None:
            outputs[id(output)] = name
            kept.append(output)

        return noted

    with ExitStack() as stack, torch.no_grad():
        for name, layer in net.nested_layers().items():
            stack.callback(layer.register_forward_hook(note(name)).remove)
        for norm in net.level_norms().values():
            hook = norm.register_forward_pre_hook(lambda norm, given: found.update({outputs[id(given[0])]: norm}))
            stack.callback(hook.remove)
        net.eval()(*example)
    return found


def _set_norm(norm: nn.Module, scale: Tensor, shift: Tensor) -> None:
    """Scale and shift alone: mean 0, and a variance that epsilon makes 1."""
    assert isinstance(norm, _BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    norm.weight.copy_(scale)
    norm.bias.copy_(shift)


@torch.no_grad()
def unfold_norms(net: NestedModel, batches: Iterable[tuple[Tensor, Any]]) -> None:
    """Give each norm the statistics of its inputs, and a weight and bias with which it computes the same as before.

    So a restored net can be trained.
    """
    moments = [{module.norms[level]: Moments() for module in net.level_norms().values()} for level in _levels(net)]
    for inputs, _ in batches:
        for level in _levels(net):
            net.set_level(level)
            with _observed(moments[level]):
                net(inputs)
    for norm, seen in (pair for of_level in moments for pair in of_level.items()):
        assert isinstance(norm, _BatchNorm)
        scale, shift = norm.weight.double().clone(), norm.bias.double().clone()
        seen.store(norm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.weight.copy_(scale * (norm.running_var.double() + norm.eps).sqrt())
        norm.bias.copy_(shift + scale * norm.running_mean.double())
    net.set_level(-1)


@contextmanager
def _observed(moments: dict[nn.Module, Moments]) -> Iterator[None]:
    with ExitStack() as stack:
        for norm, seen in moments.items():
            hook = norm.register_forward_pre_hook(lambda _, given, seen=seen: seen.add(given[0]))
            stack.callback(hook.remove)
        yield


def _levels(net: NestedModel) -> range:
    return range(net.level_count)


@dataclass(frozen=True)
class Score:
    """A level of an int8 file beside the same level in float32. accuracies: shares of right answers, from 0 to 1.

    error: root mean square of the logits' differences, as a share of that of the logits.
    """

    accuracy: float
    float_accuracy: float
    error: float


def scores(int8: Path, float32: Path, data: TrainingData) -> list[Score]:
    """The score of each level, by running both files on the recipe's test samples."""
    found = []
    with Session(int8, threads=1) as ours, Session(float32, threads=1) as exact:
        (name,) = (spec.name for spec in ours.inputs)
        for level in range(len(ours.levels)):
            right: dict[str, float] = defaultdict(float)
            for inputs, targets in data.scored():
                feeds = {name: inputs.numpy()}
                (got,), (expected,) = (each.run(feeds, level=level).values() for each in (ours, exact))
                right["samples"] += len(targets)
                right["int8"] += int(hits(torch.from_numpy(got), targets, "scores").sum())
                right["float32"] += int(hits(torch.from_numpy(expected), targets, "scores").sum())
                right["noise"] += float(np.square(got - expected).sum())
                right["power"] += float(np.square(expected).sum())
            count = right["samples"]
            error = math.sqrt(right["noise"] / right["power"])
            found.append(Score(right["int8"] / count, right["float32"] / count, error))
    return found


def table(scored: Mapping[str, Sequence[Score]]) -> str:
    """Accuracy of each level in percent; for each method the difference in points, and the error of the logits."""
    lines = [f"| level | float32 | {' | '.join(scored)} |", "|---" * (2 + len(scored)) + "|"]
    for level, of_level in enumerate(zip(*scored.values(), strict=True)):
        cells = [
            f"{100 * each.accuracy:.2f} ({100 * (each.accuracy - each.float_accuracy):+.2f}), {100 * each.error:.1f} %"
            for each in of_level
        ]
        lines.append(f"| {level} | {100 * of_level[0].float_accuracy:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def calibration_batches(data: TrainingData, samples: int) -> list[tuple[Tensor, Any]]:
    """The first training samples, of the first epoch."""
    batches = list(data.batches(0))
    each = len(batches[0][1])
    return list(islice(batches, max(1, samples // each)))


def measure(recipe: Recipe, options: argparse.Namespace) -> str:
    """Rebuild, quantise and score; returns the table."""
    data, net = start(recipe)
    batches = calibration_batches(data, options.samples)
    restore(net, options.file, data.example)
    if options.fine_tune:
        unfold_norms(net, batches)
        config = TrainConfig(
            int8_epochs=options.fine_tune,
            lr=options.lr or recipe.config.lr,
            optimizer=recipe.config.optimizer,
            weight_decay=recipe.config.weight_decay,
            distill_weight=recipe.config.distill_weight,
        )
        fine_tune_int8(net, data.batches, recipe.loss_fn, config)
    found: dict[str, Sequence[Score]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for method in options.methods:
            path = Path(folder) / f"{method}.safetensors"
            export(
                net,
                data.example,
                path,
                values="int8",
                calibration=data.batches(0),
                calibration_samples=options.samples,
                calibration_method=method,
                activations=options.activations,
            )
            found[method] = scores(path, options.file, data)
        if options.out is not None:
            store_metrics(path, file_metrics(path, data.scored()))
            shutil.copy(path, options.out)
    return table(found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name or file of the recipe that trained FILE")
    parser.add_argument("file", type=Path, metavar="FILE", help="float32 checkpoint")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="table.key=value of the recipe")
    parser.add_argument("--methods", nargs="+", default=["minmax", "percentile", "mse"])
    parser.add_argument("--samples", type=int, default=512, help="training samples to calibrate on")
    parser.add_argument("--activations", help="of linear layers: static, dynamic or float32")
    parser.add_argument("--fine-tune", type=int, default=0, metavar="EPOCHS", help="epochs with rounding before export")
    parser.add_argument("--lr", type=float, default=0.0, help="learning rate of the training; by default the recipe's")
    parser.add_argument("--out", type=Path, help="where to keep the file of the last method")
    options = parser.parse_args()
    print(measure(load_recipe(options.recipe, options.settings), options))


if __name__ == "__main__":
    main()
