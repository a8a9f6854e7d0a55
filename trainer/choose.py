"""Choose masks: every layer's first levels from the magnitudes its weight has now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from nested_sparse.budget import keep_counts
from nested_sparse.mask import block_scores, nested_first_level
from nested_sparse.trainer.layers import NestedConv2d, NestedLayer, NestedLinear

AnyNestedLayer = NestedConv2d | NestedLinear


def unique_weights(layers: Iterable[AnyNestedLayer]) -> list[AnyNestedLayer]:
    """One layer for each weight: layers that share a weight are represented by the first."""
    return list({id(layer.weight): layer for layer in reversed(list(layers))}.values())[::-1]


def choose_masks(layers: Iterable[AnyNestedLayer], budget: str, densities: Sequence[float]) -> None:
    """Set the first level of every block: level l keeps the blocks of largest magnitude that its budget allows.

    Layers kept dense are whole at level 0. Layers that share a weight share its masks. Raises BudgetError.
    """
    layers = list(layers)
    sparse = [layer for layer in layers if not layer.dense]
    scores = {layer.name: magnitudes(layer) for layer in unique_weights(sparse)}
    counts = keep_counts(budget, scores, densities)
    chosen = {
        id(layer.weight): nested_first_level(scores[layer.name], counts[layer.name]) for layer in unique_weights(sparse)
    }
    for layer in sparse:
        layer.first_level.copy_(torch.from_numpy(chosen[id(layer.weight)]))


def keep_everything(layers: Iterable[AnyNestedLayer]) -> None:
    """Make every level whole: all blocks belong to level 0."""
    for layer in layers:
        layer.first_level.zero_()


def magnitudes(layer: NestedLayer) -> NDArray[np.float64]:
    """(G, K) the sum of |w| in each block."""
    values = layer.weight.detach().flatten(1).float().cpu().numpy()
    permutation = None if layer.permutation is None else layer.permutation.cpu().numpy()
    return block_scores(values, layer.block_rows, permutation)
