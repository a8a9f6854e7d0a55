"""LevelReport: the cost of each level of a nested model in accuracy, and the layers that cost most.

The cost of a layer is its pruning sensitivity (Han et al., arXiv:1506.02626, section 5): the error of the outputs when
only this layer is sparse. `nest_pretrained` users read it to choose densities and `keep_dense`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nested_sparse.errors import TrainingError
from nested_sparse.layouts import parse_pattern
from nested_sparse.level import resolve_level

from ..batch import device_of, moved, run
from ..entry import entry
from ..model.copied import copy_of
from ..model.layers import NestedLayer, unique_weights
from ..model.modes import evaluating
from ..model.nested_model import NestedModel, require_nested
from ..model.network import all_weights
from ..model.preserved import preserved
from ..model.replace import replace_layers
from ..model.structure import CONSTANTS, tensors_in
from ..tasks.hits import choices
from .calibration import first_batches, joined, normed_layers

WORTH_KEEPING = 0.05
"""Least share of a level's squared error that makes a layer worth keeping dense."""
CHEAP = 0.1
"""Largest share of a level's kept weights that all layers worth keeping dense may add."""
MOST_LINES = 10
"""Layers in the printed table."""


@dataclass(frozen=True, slots=True)
class LevelCost:
    """A level against the dense model. density: kept / all weights of the network.

    relative_error: root mean square of the outputs' difference, as a part of that of the dense model's outputs.
    accuracy: share of right classes, in [0, 1]. agreement: share of classes that are the dense model's. Both are None
    without labels.
    """

    density: float
    relative_error: float
    accuracy: float | None = None
    agreement: float | None = None


@dataclass(frozen=True, slots=True)
class LayerCost:
    """A layer that alone is sparse, at the report's level. density: of the layer.

    added: weights that the level would keep more if the layer were dense, as a part of those it keeps now.
    relative_error: as of LevelCost. share: its square, as a part of the sum over the layers.
    """

    name: str
    density: float
    added: float
    relative_error: float
    share: float


@dataclass(frozen=True, slots=True)
class LevelReport:
    """levels: sparsest first. layers: at `level`, largest error first. dense_accuracy: of the dense model, or None."""

    level: int
    levels: tuple[LevelCost, ...]
    layers: tuple[LayerCost, ...]
    dense_accuracy: float | None = None

    @property
    def keep_dense(self) -> tuple[str, ...]:
        """Names of the layers that are worth keeping dense, for `keep_dense` of `nest_pretrained`.

        Each has WORTH_KEEPING of the squared error or more, and together they add at most CHEAP of the kept weights.
        The layers with the most error for each added weight come first.
        """
        chosen: list[str] = []
        added = 0.0
        for layer in sorted(self.layers, key=lambda each: each.share / max(each.added, 1e-12), reverse=True):
            if layer.share >= WORTH_KEEPING and added + layer.added <= CHEAP:
                chosen.append(layer.name)
                added += layer.added
        return tuple(chosen)

    def __str__(self) -> str:
        """A table of the levels, then the ten layers of most error, then the advice."""
        lines = ["level   weights   error"]
        if self.dense_accuracy is not None:
            lines[0] += f"  accuracy  same class   (dense: {self.dense_accuracy:.2%})"
        for index, level in enumerate(self.levels):
            line = f"{index:5}  {level.density:8.2%}  {level.relative_error:6.1%}"
            if level.accuracy is not None and level.agreement is not None:
                line += f"  {level.accuracy:8.2%}  {level.agreement:10.2%}"
            lines.append(line)
        width = max(len(name) for name in ["layer", *(layer.name for layer in self.layers[:MOST_LINES])])
        lines += ["", f"{'layer':{width}}  error if only it has level {self.level}   of all  weights more if dense"]
        lines += [
            f"{layer.name:{width}}  {layer.relative_error:30.1%}  {layer.share:6.1%}  {layer.added:+21.1%}"
            for layer in self.layers[:MOST_LINES]
        ]
        if len(self.layers) > MOST_LINES:
            lines.append(f"and {len(self.layers) - MOST_LINES} layers of less error")
        names = ", ".join(repr(name) for name in self.keep_dense)
        lines.append(f"worth keeping dense: {names}" if names else "no layer is worth keeping dense")
        return "\n".join(lines)


@entry(TrainingError)
@torch.no_grad()
def level_report(
    net: NestedModel,
    model: nn.Module,
    batches: Iterable[Any],
    *,
    samples: int = 32,
    level: int = 0,
) -> LevelReport:
    """The cost of each level of `net` against the dense `model` that it was made of; both are unchanged.

    batches: inputs, or (inputs, targets), as of `nest_pretrained`. Where every target is a tensor of class indices, the
    report has accuracies. samples: number of samples to use, from the first on; they run as one batch.
    level: the level at which layers are compared; -1 is the densest.
    The pass of each layer sets the means of its outputs right, as a bias or norm behind it does in training. A report
    takes one forward pass for each level and each sparse layer, and two more.
    Raises TrainingError: no sample, a model of other layers, or outputs without numbers; LevelError.
    """
    require_nested(net, TrainingError)
    level = resolve_level(level, net.level_count)
    taken = first_batches(batches, samples)
    dense = _dense_copy(model, net)
    inputs = moved(joined([inputs for inputs, _ in taken]), device_of(net))
    targets = _labels([targets for _, targets in taken], samples, device_of(net))
    expected, means = _reference(dense, inputs)
    classes = None if targets is None else choices(expected, targets, "level_report")
    levels = []
    before = net.level
    try:
        with evaluating(net), preserved(net.model):
            for index in range(net.level_count):
                net.set_level(index)
                levels.append(_level_cost(net, run(net, inputs), expected, targets, classes))
    finally:
        net.set_level(before)
    right = None if classes is None or targets is None else float((classes == targets).float().mean())
    return LevelReport(level, tuple(levels), _layer_costs(net, dense, inputs, expected, means, level), right)


def _labels(targets: Sequence[Any], samples: int, device: torch.device) -> Tensor | None:
    """The class indices of the first `samples` samples; None unless all targets are tensors of whole numbers."""
    found = [each for each in targets if isinstance(each, Tensor) and each.ndim]
    if len(found) != len(targets) or any(each.is_floating_point() or each.is_complex() for each in found):
        return None
    return torch.cat(found)[:samples].to(device)


def _dense_copy(model: nn.Module, net: NestedModel) -> NestedModel:
    """`model` with nested layers of one level that keeps everything. Raises TrainingError: it has other layers."""
    copied, masks = copy_of(model)
    unstructured = parse_pattern("unstructured")
    copied, left = replace_layers(copied, layout=unstructured, level_count=1, keep_dense=(), masks=masks)
    dense = NestedModel(copied, densities=(1.0,), pattern="unstructured", budget=net.budget, left_dense=left)
    layers = dense.nested_layers()
    for name, layer in net.nested_layers().items():
        if name not in layers or layers[name].values.shape != layer.values.shape:
            raise TrainingError(
                f"level_report: the dense model has no layer {name!r} with a weight of {list(layer.values.shape)}; "
                "give the model that was nested"
            )
    dense.set_level(0)
    return dense.to(device_of(net))


def _reference(dense: NestedModel, inputs: Any) -> tuple[Any, Mapping[str, Tensor]]:
    """The dense model's answer, and the means of each output channel of the layers that have a bias or a norm behind.

    Raises TrainingError: the answer has no floating-point tensor, or values that are not finite.
    """
    means: dict[str, Tensor] = {}

    def note(layer: NestedLayer, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            means.setdefault(layer.name, _channel_mean(layer, output))

    with evaluating(dense), preserved(dense.model), normed_layers(dense) as normed:
        handles = [layer.register_forward_hook(note) for layer in dense.nested_layers().values()]
        try:
            answer = run(dense, inputs)
        finally:
            for handle in handles:
                handle.remove()
    numbers = _numbers(answer)
    if not numbers.numel() or not numbers.isfinite().all():
        got = "values that are not finite" if numbers.numel() else "no floating-point tensor"
        raise TrainingError(f"level_report: expected outputs of finite numbers from the dense model, got {got}")
    layers = dense.nested_layers()
    return answer, {name: mean for name, mean in means.items() if layers[name].biases is not None or name in normed}


def _channel_mean(layer: NestedLayer, output: Tensor) -> Tensor:
    """The mean of each output channel, in a shape that broadcasts to `output`."""
    channel = output.ndim + layer.channel_dim
    others = [dim for dim in range(output.ndim) if dim != channel]
    return output.mean(dim=others, keepdim=True) if others else output


def _numbers(answer: Any) -> Tensor:
    """The floating-point outputs as one vector."""
    tensors = [each.flatten().float() for _, each in tensors_in(answer, beside=CONSTANTS) if each.is_floating_point()]
    return torch.cat(tensors) if tensors else torch.zeros(0)


def _relative_error(answer: Any, expected: Any) -> float:
    got, wanted = _numbers(answer).double(), _numbers(expected).double()
    return float((got - wanted).norm() / wanted.norm().clamp_min(torch.finfo(torch.float64).tiny))


def _level_cost(
    net: NestedModel, answer: Any, expected: Any, targets: Tensor | None, classes: Tensor | None
) -> LevelCost:
    density, error = net.density(net.level), _relative_error(answer, expected)
    if targets is None or classes is None:
        return LevelCost(density, error)
    chosen = choices(answer, targets, "level_report")
    return LevelCost(
        density, error, float((chosen == targets).float().mean()), float((chosen == classes).float().mean())
    )


def _layer_costs(
    net: NestedModel, dense: NestedModel, inputs: Any, expected: Any, means: Mapping[str, Tensor], level: int
) -> tuple[LayerCost, ...]:
    """The cost of each sparse layer at `level`, largest error first."""
    errors: dict[str, float] = {}
    sparse = [layer for layer in unique_weights(net.nested_layers().values()) if not layer.dense]
    with evaluating(dense), preserved(dense.model):
        for layer in sparse:
            with _given(dense.nested_layers()[layer.name], layer, level, means.get(layer.name)):
                errors[layer.name] = _relative_error(run(dense, inputs), expected)
    total = sum(error**2 for error in errors.values()) or 1.0
    kept_in_all = net.density(level) * all_weights(net)
    costs = [
        LayerCost(
            name=layer.name,
            density=(kept := int(layer.mask(level).sum())) / layer.values.numel(),
            added=(layer.values.numel() - kept) / kept_in_all,
            relative_error=errors[layer.name],
            share=errors[layer.name] ** 2 / total,
        )
        for layer in sparse
    ]
    return tuple(sorted(costs, key=lambda cost: cost.relative_error, reverse=True))


@contextmanager
def _given(layer: NestedLayer, sparse: NestedLayer, level: int, mean: Tensor | None) -> Iterator[None]:
    """A context in which `layer` has the weight of `sparse` at `level`. mean: of its outputs, None: as they come."""

    def with_mean(_: nn.Module, __: Any, output: Any) -> Any:
        return output if mean is None else output - _channel_mean(layer, output) + mean

    whole_weight = layer.values.detach().clone()
    handle = layer.register_forward_hook(with_mean)
    try:
        layer.values.copy_(sparse.masked_weight(level))
        yield
    finally:
        handle.remove()
        layer.values.copy_(whole_weight)
