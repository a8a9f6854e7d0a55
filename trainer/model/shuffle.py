"""Row shuffle: one permutation of rows for each layer of V × 1 blocks (Shfl-BW, arXiv:2203.05016)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from nested_sparse.budget import keep_counts
from nested_sparse.errors import TrainingError
from nested_sparse.level import resolve_level
from nested_sparse.shuffle import shuffled_rows

from .choose import layer_sizes, magnitudes, worth
from .layers import NestedLayer, unique_weights

if TYPE_CHECKING:  # nest, beside NestedModel, calls this module
    from .nested_model import NestedModel


def shuffle_rows(net: NestedModel, level: int = 0) -> None:
    """Set the permutation of every layer of blocks to the best for its present weights at the density of `level`.

    All levels share the permutation, so it must be set before any masks are chosen: a layer that drops something
    already is refused. Layers that share a weight share the permutation. Rows of a convolution stay in their
    group, rows of a recurrent layer in their gate.
    Layers of single weights, gather groups or channels, and layers kept dense, have none. The same weights give the
    same result in every process. Raises TrainingError, LevelError.
    """
    layers = [layer for layer in net.nested_layers().values() if in_blocks(layer)]
    chosen = [layer.name for layer in layers if bool(layer.first_level.any())]
    if chosen:
        raise TrainingError(
            f"shuffle_rows: the masks of {', '.join(chosen)} are chosen already, and shuffling would split their "
            "blocks; shuffle before the first search, or make all levels whole with keep_everything"
        )
    _reset_permutations(layers)  # densities below do not depend on an earlier shuffle
    densities = _layer_densities(net, resolve_level(level, net.level_count))
    for layer in unique_weights(layers):
        values = layer.values.detach().flatten(1).float().cpu().numpy()
        order = torch.from_numpy(shuffled_rows(values, layer.block_rows, densities[layer.name], parts=layer.row_parts))
        for alike in (other for other in layers if other.values is layer.values):
            alike.permutation = order.to(layer.values.device, copy=True)


def _reset_permutations(layers: Iterable[NestedLayer]) -> None:
    for layer in layers:
        layer.permutation = torch.arange(len(layer.values), dtype=torch.int32, device=layer.values.device)


def in_blocks(layer: NestedLayer) -> bool:
    """Whether blocks have several rows, so that the order of rows matters."""
    return layer.block_rows > 1 and not layer.dense


def _layer_densities(net: NestedModel, level: int) -> Mapping[str, float]:
    """Share of the blocks that each layer keeps at `level`, with rows in their present order."""
    sparse = unique_weights([layer for layer in net.nested_layers().values() if not layer.dense])
    scores = {layer.name: magnitudes(layer) / layer.block_rows for layer in sparse}
    counts = keep_counts(net.budget, worth(net.budget, scores), net.densities, sizes=layer_sizes(sparse))
    return {name: counts[name][level] / score.size for name, score in scores.items()}
