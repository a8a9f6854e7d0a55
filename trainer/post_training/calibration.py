"""Calibration: samples for a pass, and the inputs and outputs of each layer of the dense model on them."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nested_sparse.argument import shown, whole
from nested_sparse.errors import TrainingError

from ..batch import device_of, moved, run, sample_count
from ..model.layers import NestedLayer
from ..model.modes import evaluating
from ..model.nested_model import NestedModel
from ..model.structure import sequence_like, with_tensors
from .least_squares import precise, second_moment

LEAST_POSITIONS = 16384
POSITIONS_PER_COLUMN = 4
"""Positions per column at which a layer is observed, at least LEAST_POSITIONS in total; more add little but time."""


class DenseLayer:
    """Weight, inputs and outputs of a layer in the dense model.

    weight: (groups, O / groups, K), a copy: the layer itself gets the values that are found for it.
    targets: (groups, n, O / groups), the layer's outputs at `positions`, with bias.
    moment, mean: means over the positions, (groups, K, K) of products of two inputs, and (groups, K) of the inputs.
    centred: whether a bias or a batch normalisation corrects the mean of the output for any weight. normed: whether a
    batch normalisation does, and the scale, too.
    """

    def __init__(self, layer: NestedLayer, x: Tensor, positions: Tensor) -> None:
        self.positions = positions
        self.weight = by_group(layer, layer.values.detach()).clone()
        taken = layer.columns(x, positions)
        self.moment, self.mean = second_moment(taken), precise(taken).mean(dim=1)
        self.targets = taken @ self.weight.mT
        if layer.biases is not None:
            self.targets = self.targets + layer.biases.detach()[0].reshape(len(self.weight), 1, -1)
        self.centred = layer.biases is not None
        self.normed = False
        if not self.targets.isfinite().all():
            raise TrainingError(
                f"{layer.name}: the model's values on the calibration samples are not finite; "
                "expected finite inputs and weights, so check both for NaN and infinity"
            )
        if not self.moment.isfinite().all():
            raise TrainingError(
                f"{layer.name}: the calibration samples reach {float(taken.abs().max()):.3g} there, whose square is no "
                f"number of {self.moment.dtype}; scale the inputs down"
            )


def by_group(layer: NestedLayer, weight: Tensor) -> Tensor:
    """A tensor of the weight's shape as (groups, O / groups, K)."""
    return weight.reshape(layer.groups, -1, weight[0].numel())


def first_batches(batches: Iterable[Any], samples: int) -> list[tuple[Any, Any]]:
    """The first `samples` samples as (inputs, targets); targets are None where a batch has only inputs.

    batches: inputs, or (inputs, targets); a tuple or list of two counts as the latter. Raises TrainingError: no sample.
    """
    samples = whole("samples", samples, 0, error=TrainingError)
    if not isinstance(batches, Iterable) and not hasattr(batches, "__getitem__"):
        raise TrainingError(
            f"calibration_batches: expected batches, each inputs or (inputs, targets), got {shown(batches)}"
        )
    taken: list[tuple[Any, Any]] = []
    missing = samples
    for batch in batches:
        inputs, targets = batch if isinstance(batch, tuple | list) and len(batch) == 2 else (batch, None)
        count = min(sample_count(inputs), missing)
        taken.append((with_tensors(inputs, operator.itemgetter(slice(count))), targets))
        missing -= count
        if missing <= 0:
            break
    if samples < 1 or missing >= samples:
        raise TrainingError(
            "calibration samples: expected at least one batch and samples >= 1, got none with "
            f"samples={samples}; pass a few hundred typical inputs, in a new generator if the first one is used up"
        )
    return taken


def joined(parts: Sequence[Any]) -> Any:
    """Batches in any container as one batch; what is no tensor is taken from the first."""
    head = parts[0]
    if isinstance(head, Tensor):
        return torch.cat(list(parts)) if head.ndim else head
    if isinstance(head, Mapping):
        return {key: joined([part[key] for part in parts]) for key in head}
    if isinstance(head, tuple | list):
        return sequence_like(head, [joined(items) for items in zip(*parts, strict=True)])
    return head


@torch.no_grad()
def observe(net: NestedModel, inputs: Any, seed: int) -> dict[str, DenseLayer]:
    """Every layer that `inputs` reach, at its first use in one pass of the net, in which every level is still whole."""
    seen: dict[str, DenseLayer] = {}
    generator = torch.Generator().manual_seed(seed)

    def note(layer: NestedLayer, x: Tensor) -> None:
        if layer.name not in seen:
            most = max(LEAST_POSITIONS, POSITIONS_PER_COLUMN * layer.values[0].numel())
            seen[layer.name] = DenseLayer(layer, x, layer.positions(x, most, generator))

    with evaluating(net), normed_layers(net) as normed:
        layers = net.nested_layers().values()
        handles = [layer.register_forward_pre_hook(lambda module, args: note(module, args[0])) for layer in layers]
        _run(net, inputs, handles)
    for name in normed & seen.keys():
        seen[name].centred = seen[name].normed = True
    return seen


@contextmanager
def normed_layers(net: NestedModel) -> Iterator[set[str]]:
    """A context that yields a set of names, to which runs of `net` add the layers whose output a norm reads."""
    made: dict[int, tuple[weakref.ref[Tensor], str]] = {}
    found: set[str] = set()

    def note_output(layer: NestedLayer, output: object) -> None:
        if isinstance(output, Tensor):  # a recurrent layer has a tuple, which no norm reads
            made[id(output)] = (weakref.ref(output), layer.name)

    def note_norm(x: Tensor) -> None:
        if id(x) in made and made[id(x)][0]() is x:  # a new tensor may have the id of a deleted one
            found.add(made[id(x)][1])

    layers, norms = net.nested_layers().values(), net.level_norms().values()
    handles = [layer.register_forward_hook(lambda module, _, out: note_output(module, out)) for layer in layers]
    handles += [norm.register_forward_pre_hook(lambda _, args: note_norm(args[0])) for norm in norms]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def walk(
    net: NestedModel,
    inputs: Any,
    on_layer: Callable[[NestedLayer, Tensor], None],
    on_norm: Callable[[nn.Module, Tensor], None],
) -> None:
    """Run one pass at the current level; call `on_layer`, `on_norm` with each module and its input before it runs."""
    with evaluating(net):
        layers, norms = net.nested_layers().values(), net.level_norms().values()
        handles = [layer.register_forward_pre_hook(lambda module, args: on_layer(module, args[0])) for layer in layers]
        handles += [
            norm.register_forward_pre_hook(lambda module, args: on_norm(module.norms[net.level], args[0]))
            for norm in norms
        ]
        _run(net, inputs, handles)


def _run(net: NestedModel, inputs: Any, handles: Sequence[torch.utils.hooks.RemovableHandle]) -> None:
    try:
        run(net, moved(inputs, device_of(net)))
    finally:
        for handle in handles:
            handle.remove()
