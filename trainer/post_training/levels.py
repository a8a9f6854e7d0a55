"""Post-training levels: second-order masks and values for a pre-trained model, from a few hundred samples.

The method is Optimal Brain Surgeon layer by layer (OBC, arXiv:2208.11580; SparseGPT, arXiv:2301.00774), with levels:
each level keeps the values of the level below and solves for the weights that it adds. Where the densest level drops
nothing, it can be the given model. No level has other values then: only the masks are searched.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nested_sparse.argument import as_float, shown
from nested_sparse.errors import TrainingError
from nested_sparse.graph.contract import LAYER_KINDS
from nested_sparse.mask import grouped

from ..entry import entry
from ..model.choose import choose_masks, keep_everything
from ..model.layers import NestedLayer, unique_weights
from ..model.nested_model import NestedModel, check_distinct, nest
from ..model.norm import noting
from ..model.preserved import preserved
from ..recalibrate import Moments
from .calibration import DenseLayer, by_group, first_batches, joined, observe, walk
from .least_squares import best_scale, fit, output_error, same_inputs, stiffness

log = logging.getLogger(__name__)

DAMPING = 0.3
"""The default of `nest_pretrained`."""
SEARCH_STEPS = 8
"""Most steps of conjugate gradients after each thinning of the support. The values are only used for scores; after 8
steps the loss of a usual layer is within a thousandth of its least value."""
SEARCH_TOLERANCE = 1e-2
"""Residual at which these steps end before."""
FIT_STEPS = 100
"""Most steps of conjugate gradients for the final values of a level."""
FIT_TOLERANCE = 1e-4
"""Residual at which these steps end, after about 17: the loss is then its least value to eight digits."""
THINNING = 2.0
"""Largest factor by which one step thins the support."""
WORSE = 0.002
"""Part of the squared outputs, summed over layers, from which on a warning says that own values would be nearer."""
PRUNED = 0.1
"""Share of exact zeros from which on a layer counts as sparse already. Weights that were trained freely have none."""


@entry(TrainingError)
@torch.no_grad()
def nest_pretrained(
    model: nn.Module,
    calibration_batches: Iterable[Any],
    *,
    densities: Sequence[float] | None = None,
    pattern: str = "unstructured",
    budget: str | None = None,
    keep_dense: Sequence[str] = (),
    samples: int = 256,
    damping: float = DAMPING,
    keep_values: bool | None = None,
    **options: Any,
) -> NestedModel:
    """A nested copy of the pre-trained `model`, with outputs close to the model's on calibration samples.

    `model` is unchanged. Levels are made sparsest first. The support of a level starts with all weights and is thinned
    in steps. Each step drops the blocks of least saliency (Optimal Brain Surgeon's, summed over a block's rows) and
    solves for the rest. Then a pass at that level goes from layer to layer. The values that the level adds become the
    least-squares optimum for the dense model's outputs, given the inputs from the earlier layers of this level. Its
    biases and norm statistics are set, too.
    Layers that are sparse already, by masks of torch.nn.utils.prune or by zeros, keep their zeros at every level.
    keep_values: whether every level has the model's own values, and only its mask, scales, biases and statistics are
        found. That costs the sparser levels; a densest level that drops nothing (density 1, or as much as the model
        keeps) then answers as `model` does. None: where there is such a level, and a layer is sparse already.
        Levels share values, so those that sparse levels were given may do harm in dense ones: a warning names levels
        whose layers would be nearer to the model with its own values.
    calibration_batches: inputs, or (inputs, targets) with unused targets; run as one batch.
    samples: number of samples to use, from the first on.
    damping: > 0, strength of the pull towards the dense model's values, as a part of the mean squared input. Less may
        help the sparsest level, at the cost of the denser levels, which keep its values.
    densities, pattern, budget, keep_dense and other options: as of `nest`. Under a "global" budget, layers are compared
    by the lost part of their output's energy. A layer that is used several times learns from its first use.
    Device, dtype and train or eval mode are kept; the densest level is set.
    Raises what `nest` raises, and TrainingError (no samples, values that are not finite, damping <= 0).
    """
    if keep_values is not None and not isinstance(keep_values, bool):
        raise TrainingError(f"keep_values: expected True, False or None, got {shown(keep_values)}")
    number = as_float(damping)
    if number is None or not number > 0:
        raise TrainingError(f"damping: expected a number > 0, got {shown(damping)}; {DAMPING} is the default")
    net = nest(model, densities=densities, pattern=pattern, budget=budget, keep_dense=keep_dense, **options)
    if not keep_zeros(net) and keep_values is None:
        keep_values = False
    inputs = joined([inputs for inputs, _ in first_batches(calibration_batches, samples)])
    find_levels(net, inputs, damping, keep_values=keep_values)
    return net


def find_levels(net: NestedModel, inputs: Any, damping: float, *, keep_values: bool | None) -> None:
    """Find the levels of `net`, which is nested from a pre-trained model, in place; arguments as of `nest_pretrained`.

    inputs: of one call of the model, with all samples. keep_values: None: where the densest level drops nothing.
    Raises TrainingError: values that are not finite.
    """
    keep_zeros(net)
    exact = keep_values is not False and _keeps_all(net)
    with preserved(net.model, levels=False):
        _search_levels(net, inputs, damping, solve=not (keep_values or exact), exact=exact)
    _check_finite(net)
    net.set_level(-1)


def _check_finite(net: NestedModel) -> None:
    """Raise TrainingError where a layer or a norm was given values that its type cannot hold."""
    found: dict[str, tuple[Tensor | None, ...]] = {
        name: (layer.masked_weight(net.level_count - 1), layer.scales, layer.biases)
        for name, layer in net.nested_layers().items()
    }
    found.update({name: tuple(norm.buffers()) for name, norm in net.level_norms().items()})
    for name, tensors in found.items():
        for tensor in tensors:
            if tensor is not None and not tensor.isfinite().all():
                raise TrainingError(
                    f"{name}: the calibration samples are so large there that what was found from them is not finite "
                    f"in {tensor.dtype}; scale the inputs down, and check them for outliers"
                )


def zeros_in(weight: Tensor) -> Tensor | None:
    """Where a weight that is sparse already is not zero; None of other weights."""
    kept = weight.detach() != 0
    return kept if PRUNED <= 1 - float(kept.float().mean()) < 1 else None


def keep_zeros(net: NestedModel) -> bool:
    """Keep the zeros of layers that are sparse already out of every level, and choose masks again by magnitude.

    Returns whether there are such layers. Raises BudgetError where two levels are then the same.
    """
    layers = [layer for layer in unique_weights(net.nested_layers().values()) if not layer.dense]
    found = False
    for layer in layers:
        kept = zeros_in(layer.values)
        if layer.allowed is None and kept is not None:
            layer.allowed = kept.contiguous()
            found = True
    if found:
        choose_masks(net.nested_layers().values(), net.budget, net.densities)
        check_distinct(net, zeros=True)
    return any(layer.allowed is not None for layer in layers)


def _keeps_all(net: NestedModel) -> bool:
    """Whether the densest level drops nothing but zeros."""
    layers = unique_weights(net.nested_layers().values())
    top = net.level_count - 1
    return all(layer.dense or bool((layer.mask(top) | (layer.values == 0)).all()) for layer in layers)


def _search_levels(net: NestedModel, inputs: Any, damping: float, *, solve: bool, exact: bool) -> None:
    """solve: whether values are solved for; else they stay. exact: whether the densest level is the model as it is."""
    layers = unique_weights(net.nested_layers().values())
    keep_everything(net.nested_layers().values())
    seen = observe(net, inputs, seed=0)
    searched = {
        layer.name: _Search(layer, seen[layer.name], damping, solve=solve)
        for layer in layers
        if layer.name in seen and not layer.dense
    }
    worse: list[int] = []
    for level in range(net.level_count):
        _choose(net, searched, level)
        net.set_level(level)
        if solve or not exact or level + 1 < net.level_count:
            _settle(net, inputs, seen, level, damping if solve else None)
        if solve and level and sum(search.lost(level) for search in searched.values()) > WORSE:
            worse.append(level)
    if worse:
        log.warning(
            "level %s: layer by layer, the model's own values of the kept weights would be nearer to the model than "
            "those found, because levels share values and sparser levels had theirs first; keep_values=True takes the "
            "model's own, at the cost of the sparser levels, and level_report says what each level costs",
            ", ".join(map(str, worse)),
        )


class _Search:
    """The support of a layer at the level under construction, thinned step by step.

    solve: whether the values that stay are solved for at each step.
    """

    def __init__(self, layer: NestedLayer, dense: DenseLayer, damping: float, *, solve: bool) -> None:
        self.layer, self.dense, self.solve = layer, dense, solve
        self.own = dense.weight.float()
        self.problem = same_inputs(dense.moment, dense.mean, dense.weight, damping, centred=dense.centred)
        self.stiffness = stiffness(self.problem.hessian) if solve else self.problem.hessian.diagonal(dim1=1, dim2=2)
        self.energy = float(-self.problem.loss(dense.weight.to(self.problem.linear.dtype)).sum())
        self.problem = self.problem.single()  # scores need no more, and float64 takes twice the time

    def start(self, level: int) -> None:
        """Start with all weights: with the values of lower levels, and the dense model's values elsewhere."""
        kept = by_group(self.layer, self.layer.mask(level - 1)) if level else torch.zeros_like(self.dense.weight).bool()
        self.frozen = kept
        values = torch.where(kept, by_group(self.layer, self.layer.values), self.dense.weight)
        self.values = self._fitted(values, ~kept, SEARCH_STEPS if level and self.solve else 0)

    def _fitted(self, start: Tensor, free: Tensor, steps: int) -> Tensor:
        if not steps:
            return start.to(self.problem.linear.dtype)
        return fit(self.problem, start, free, steps=steps, tolerance=SEARCH_TOLERANCE)

    def scores(self) -> NDArray[np.float64]:
        """(G, K) saliencies of the blocks, as parts of the output's energy.

        Where values stay, that is the loss of a weight alone (Wanda, arXiv:2306.11695). To add what it does to the loss
        of the weights dropped before it was tried: the next step then drops all that make up for these, too many.
        """
        scale = 1 / self.energy if self.energy > 0 else 1.0
        saliency = self.values.square() * (self.stiffness * scale / 2)[:, None]
        rows = saliency.flatten(0, 1).double().cpu().numpy()
        permutation = None if self.layer.permutation is None else self.layer.permutation.cpu().numpy()
        return np.asarray(grouped(rows, self.layer.block_rows, permutation).sum(axis=1))

    def thin(self, level: int) -> None:
        """Reduce the support to the layer's masks, and solve for its values."""
        kept = by_group(self.layer, self.layer.mask(level))
        steps = SEARCH_STEPS if self.solve else 0
        self.values = self._fitted(self.values * kept, kept & ~self.frozen, steps)

    def lost(self, level: int) -> float:
        """The energy of the layer's output that own values explain and the values found for `level` do not.

        Both have the weights of the level. A part of the whole energy, on the dense model's inputs, each row with its
        best scale; below 0 where the found values explain more.
        """
        kept = by_group(self.layer, self.layer.mask(level))
        found = by_group(self.layer, self.layer.values).float()
        own, found = (self._explained(torch.where(kept, values, 0)) for values in (self.own, found))
        energy = (self.problem.linear * self.own).sum(dim=(1, 2))
        return float(((own - found) / energy.clamp_min(torch.finfo(energy.dtype).tiny)).mean())

    def _explained(self, values: Tensor) -> Tensor:
        """(groups,) the energy of the dense outputs that `values` explain, each row with its best scale."""
        along = (self.problem.linear * values).sum(dim=-1).clamp_min(0)
        power = (values @ self.problem.hessian * values).sum(dim=-1)
        return (along.square() / power.clamp_min(torch.finfo(power.dtype).tiny)).sum(dim=-1)


def _choose(net: NestedModel, searched: dict[str, _Search], level: int) -> None:
    """Set the masks up to `level`, and give the weights that it adds the values of its search."""
    for search in searched.values():
        search.start(level)
    layers = net.nested_layers().values()
    for density in _thinning(net.densities[level]):
        scores = {name: search.scores() for name, search in searched.items()}
        densities = (*net.densities[:level], density)
        choose_masks(layers, net.budget, densities, frozen_levels=level, scores=scores, comparable=True)
        for search in searched.values():
            search.thin(level)
    for search in searched.values():
        if search.solve:
            _store(search.layer, search.values, level)


def _thinning(density: float) -> list[float]:
    """Falling densities that end at `density`, each at most THINNING times the next; all but the last are below 1."""
    densities = [density]
    while densities[-1] * THINNING < 1:
        densities.append(densities[-1] * THINNING)
    return densities[::-1]


def _settle(net: NestedModel, inputs: Any, seen: dict[str, DenseLayer], level: int, damping: float | None) -> None:
    """Set values, biases and statistics of `level`, layer by layer, with the inputs from the layers set before.

    The values that come from lower levels were solved for without those of this one, so each row that no norm scales
    gets a scale. damping: None where values stay.
    """
    done: set[int] = set()

    def settle_layer(layer: NestedLayer, x: Tensor) -> None:
        if id(layer) in done:
            return
        dense = seen[layer.name]
        taken = layer.columns(x, dense.positions)
        if damping is not None and not layer.dense and id(layer.values) not in done:
            problem = output_error(taken, dense.targets, dense.weight, damping, centred=dense.centred)
            values = torch.where(layer.mask(level), layer.values, 0)
            ring = by_group(layer, layer.ring(level))
            fitted = fit(problem, by_group(layer, values), ring, steps=FIT_STEPS, tolerance=FIT_TOLERANCE)
            _store(layer, fitted, level)
        sums = taken @ by_group(layer, torch.where(layer.mask(level), layer.values, 0)).mT
        if not layer.dense and not dense.normed and not LAYER_KINDS[layer.op].gates:
            if layer.scales is None:
                layer.scales = layer.values.new_ones((layer.level_count, layer.values.shape[0]))
            scale = best_scale(sums, dense.targets, centred=dense.centred)
            layer.scales[level] = scale.flatten()
            sums = sums * scale[:, None]
        if layer.biases is not None:
            layer.biases[level] = (dense.targets - sums).mean(dim=1, dtype=torch.float64).flatten()
        done.update((id(layer), id(layer.values)))

    def settle_norm(norm: nn.Module, x: Tensor) -> None:
        if isinstance(norm, _BatchNorm) and id(norm) not in done:
            moments = Moments()
            with noting(norm, moments.add):
                norm(x)
            moments.store(norm)
            done.add(id(norm))

    walk(net, inputs, settle_layer, settle_norm)


def _store(layer: NestedLayer, values: Tensor, level: int) -> None:
    """Give the weights that `level` adds their `values` (groups, O / groups, K)."""
    flat = values.reshape(layer.values.shape).to(layer.values.dtype)
    layer.values.copy_(torch.where(layer.ring(level), flat, layer.values))
