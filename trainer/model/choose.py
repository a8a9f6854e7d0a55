"""Mask choice: every layer's first levels, from the present magnitudes of its weight or from other scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nested_sparse.budget import Budget, LayerSize, blocks_to_keep, keep_counts
from nested_sparse.coupled import (
    CoupledWeight,
    channel_counts,
    channel_importance,
    channel_levels,
    present_levels,
    ranking,
)
from nested_sparse.errors import PatternError
from nested_sparse.mask import block_scores

from .layers import NestedLayer, unique_weights


def choose_masks(
    layers: Iterable[NestedLayer],
    budget: Budget | str,
    densities: Sequence[float],
    *,
    frozen_levels: int = 0,
    scores: Mapping[str, NDArray[np.float64]] | None = None,
    counts: Mapping[str, Sequence[int]] | None = None,
    comparable: bool = False,
) -> Mapping[str, Sequence[int]]:
    """Set the first level of every block: level l keeps the best scores that budget and pattern allow.

    Layers kept dense are whole at level 0. Layers that share a weight share its masks. Layers with coupled channels
    have their own budget, and keep and drop channels together (see nested_sparse.coupled).
    frozen_levels: number of lowest levels whose masks do not change; `densities` contains theirs, too.
    scores: layer name to (G, K), positive, higher is better; the sum of magnitudes for missing layers.
    counts: layer name to the number of blocks that each level keeps, in place of budget and densities.
    comparable: whether `scores` say by themselves what a weight of one layer is worth beside one of another. A budget
        by latency makes all others comparable (`worth`).
    Returns the counts that were used. Raises BudgetError.
    """
    layers = list(layers)
    sparse = [layer for layer in layers if not layer.dense]
    unique = unique_weights(sparse)
    ranked = {layer.name: magnitudes(layer) for layer in unique} | dict(scores or {})
    coupled = coupled_weights(unique)
    channels = _channel_first_levels(unique, coupled, ranked, budget, densities, frozen_levels)
    alone = [layer for layer in unique if layer.name not in channels]
    # per weight: else layers with higher blocks would rank first, because a block's score is a sum
    per_weight = {layer.name: ranked[layer.name] / layer.block_rows for layer in alone}
    ranked = per_weight if comparable else worth(budget, per_weight)
    ranked = {layer.name: _allowed(layer, ranked[layer.name]) for layer in alone}
    frozen = None
    if frozen_levels:
        frozen = _frozen_counts(alone, ranked, frozen_levels)
        ranked = _above_the_rest(alone, ranked, frozen_levels)
    if counts is None:
        counts = keep_counts(budget, ranked, densities, sizes=layer_sizes(alone), frozen=frozen)
    chosen = {id(layer.values): _first_level(layer, ranked[layer.name], counts[layer.name]) for layer in alone}
    chosen |= {id(layer.values): channels[layer.name] for layer in unique if layer.name in channels}
    for layer in sparse:
        layer.first_level.copy_(torch.from_numpy(chosen[id(layer.values)]))
    return counts


def worth(budget: Budget | str, scores: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Scores that compare between layers, for a budget by latency: those of LAMP (arXiv:2010.07611); else `scores`.

    A block is worth its squared score over the sum of those of all blocks that are left when it is the next to go, so
    the last blocks of a layer are dear. Other scores for each millisecond were tried on a ResNet-20 of width 16 for
    Fashion-MNIST, pruned at once to the time of uniform 5.38 % and trained for 150 steps: magnitudes, and squares over
    the layer's mean square, nearly empty the layers of large images (82.5, 81.6 % of 10 000 held-out images right),
    squares over the layer's sum have 85.1, LAMP has 85.7; "uniform" 84.3.
    """
    if isinstance(budget, str) or budget.latency is None:
        return scores
    return {name: _lamp(score) for name, score in scores.items()}


def _lamp(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    order = np.argsort(scores, axis=None, kind="stable")
    squares = scores.reshape(-1)[order] ** 2
    worth = np.empty_like(squares)
    worth[order] = squares / np.maximum(np.cumsum(squares[::-1])[::-1], np.finfo(np.float64).tiny)
    return worth.reshape(scores.shape)


def keep_as_many(layer: NestedLayer, level: int, scores: NDArray[np.float64]) -> None:
    """Set the blocks that `level` adds to the best `scores` (G, K), as many blocks as now; lower levels stay.

    Other layers that share the weight are not changed. Raises PatternError for pattern channel.
    """
    if layer.layout.whole_channels:
        raise PatternError(f"{layer.name}: expected a pattern of weights or blocks, got channels, which layers share")
    now = layer.first_level.cpu().numpy()[: len(scores)]
    counts = [int((now <= each).sum()) for each in range(level + 1)]
    scores = _allowed(layer, scores)
    ranked = _above_the_rest([layer], {layer.name: scores}, level) if level else {layer.name: scores}
    layer.first_level.copy_(torch.from_numpy(_first_level(layer, ranked[layer.name], counts)))


def coupled_weights(layers: Iterable[NestedLayer]) -> list[CoupledWeight]:
    """The sparse layers among `layers` that share channels with others, in the form of nested_sparse.coupled."""
    return [
        CoupledWeight(layer.name, layer.writes, layer.reads, layer.values[0].numel() // layer.reads.channels)
        for layer in layers
        if not layer.dense and layer.writes is not None and layer.reads is not None
    ]


def _channel_first_levels(
    layers: Sequence[NestedLayer],
    weights: Sequence[CoupledWeight],
    scores: Mapping[str, NDArray[np.float64]],
    budget: Budget | str,
    densities: Sequence[float],
    frozen_levels: int,
) -> dict[str, NDArray[np.uint8]]:
    """(O, K) first levels of layers with coupled channels.

    "global" compares the importance divided by its mean in the group: when a norm follows a layer, the layer's scale
    has no meaning. Mean magnitudes of the weights were tried on an untrained DigitNet: late layers kept one step of
    channels, and the first ones all.
    """
    if not weights:
        return {}
    present = present_levels(weights, {layer.name: layer.first_level.cpu().numpy() for layer in layers})
    importance = channel_importance(weights, scores)
    relative = {group: sums / max(sums.mean(), np.finfo(np.float64).tiny) for group, sums in importance.items()}
    counts = channel_counts(weights, budget, densities, relative, present=present, frozen_levels=frozen_levels)
    levels = {
        group: channel_levels(ranking(sums, present[group], frozen_levels), counts[group])
        for group, sums in importance.items()
    }
    return {weight.name: weight.first_level(levels) for weight in weights}


def _above_the_rest(
    layers: Sequence[NestedLayer], scores: Mapping[str, NDArray[np.float64]], frozen_levels: int
) -> dict[str, NDArray[np.float64]]:
    """Scores in which the weights of frozen levels rank first, lower levels before higher ones.

    All other scores add up to less than 1, so the order also holds for sums over rows, channels and layers.
    """
    largest = max((score.max() for score in scores.values()), default=0.0) + 1
    scale = 1 / (largest * max((score.size for score in scores.values()), default=1))
    above = {}
    for layer in layers:
        score = scores[layer.name]
        first_level = layer.first_level.cpu().numpy()[: len(score)].astype(np.float64)
        above[layer.name] = score * scale + np.maximum(frozen_levels - first_level, 0)
    return above


def _frozen_counts(
    layers: Sequence[NestedLayer], scores: Mapping[str, NDArray[np.float64]], frozen_levels: int
) -> dict[str, list[int]]:
    """Number of cells that each frozen level keeps now, without those in rows of padding."""
    now = {layer.name: layer.first_level.cpu().numpy()[: len(scores[layer.name])] for layer in layers}
    return {name: [int((first <= level).sum()) for level in range(frozen_levels)] for name, first in now.items()}


def layer_sizes(layers: Iterable[NestedLayer]) -> dict[str, LayerSize]:
    """The sizes by which a budget distributes weights, by layer name."""
    sizes = {}
    for layer in layers:
        allowed = allowed_blocks(layer)
        sizes[layer.name] = layer.layout.size(
            tuple(layer.values.shape), None if allowed is None else int(allowed.sum())
        )
    return sizes


def keep_everything(layers: Iterable[NestedLayer]) -> None:
    """Make every level whole: all blocks belong to level 0."""
    for layer in layers:
        layer.first_level.zero_()


def check_fit(layers: Iterable[NestedLayer], budget: Budget, densities: Sequence[float]) -> None:
    """Raise PatternError, naming each layer, where the pattern cannot keep the weights of the densest level."""
    problems = []
    for layer in unique_weights(layers):
        if layer.dense:
            continue
        rows, columns = layer.values.shape[0], layer.values[0].numel()
        most = layer.layout.most_weights(rows, columns)
        if not most or (budget.name == "uniform" and blocks_to_keep(densities[-1], rows * columns) > most):
            part = f"{most // rows} of the {columns} weights of a row, {most // rows / columns:.0%}"
            problems.append(f"\n  {layer.name}: {layer.layout.name} keeps at most {part}")
    if problems:
        raise PatternError(
            f"density {densities[-1]:g} is more than the pattern can keep of these layers; lower the density, or name "
            f"the layers in keep_dense:{''.join(problems)}"
        )


def magnitudes(layer: NestedLayer, values: Tensor | None = None) -> NDArray[np.float64]:
    """(G, K) the sum of magnitudes in each block, of the weight or of `values`, which has its shape."""
    permutation = None if layer.permutation is None else layer.permutation.cpu().numpy()
    flat = (layer.values if values is None else values).detach().flatten(1).float().cpu().numpy()
    return block_scores(flat, layer.block_rows, permutation)


def allowed_blocks(layer: NestedLayer) -> NDArray[np.bool_] | None:
    """(G, K) the blocks that a level may keep; None for all, also when the pattern does not choose single blocks."""
    if layer.allowed is None or not layer.layout.excludable:
        return None
    blocks: NDArray[np.bool_] = magnitudes(layer, layer.allowed) > 0
    return blocks


def _allowed(layer: NestedLayer, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """`scores`, which are >= 0, with a negative value for the blocks that no level may keep."""
    blocks = allowed_blocks(layer)
    return scores if blocks is None else np.where(blocks, scores, -1.0)


def _first_level(layer: NestedLayer, scores: NDArray[np.float64], counts: Sequence[int]) -> NDArray[np.uint8]:
    """First levels with which level l keeps `counts[l]` blocks, or the nearest possible number of weights."""
    return layer.layout.first_level(scores, counts, layer.values[0, 0].numel())
