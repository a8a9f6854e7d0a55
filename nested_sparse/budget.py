"""Budget: how many blocks each layer keeps at each level."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import BudgetError

BUDGETS = ("uniform", "global")
MAX_LEVELS = 32


def blocks_to_keep(density: float, block_count: int) -> int:
    """The one rounding rule: density × blocks, halves up, at least one block."""
    return max(1, min(block_count, math.floor(density * block_count + 0.5)))


def check_densities(densities: Sequence[float]) -> tuple[float, ...]:
    """The densities as floats, strictly rising in (0, 1]. Raises BudgetError."""
    checked = tuple(float(density) for density in densities)
    if not 1 <= len(checked) <= MAX_LEVELS:
        raise BudgetError(f"densities: expected 1 to {MAX_LEVELS} of them, one per level, got {len(checked)}")
    if not all(0.0 < density <= 1.0 for density in checked):
        raise BudgetError(f"densities must lie in (0, 1], got {checked}")
    if any(low >= high for low, high in itertools.pairwise(checked)):
        raise BudgetError(f"densities must rise with the level (level 0 is the sparsest), got {checked}")
    return checked


def keep_counts(
    budget: str, scores: Mapping[str, NDArray[np.float64]], densities: Sequence[float]
) -> dict[str, list[int]]:
    """Blocks kept, per layer and level, from each layer's (G, K) block scores.

    uniform: every layer has the level's density. global: one ranking over the blocks of all layers (global magnitude
    pruning), at least one block a layer. Counts never fall from a level to the next. Raises BudgetError.
    """
    levels = check_densities(densities)
    if budget == "uniform":
        return {name: [blocks_to_keep(density, score.size) for density in levels] for name, score in scores.items()}
    if budget == "global":
        return _global_counts(scores, levels)
    raise BudgetError(f"budget {budget!r} is not known; choose one of: {', '.join(BUDGETS)}")


def _global_counts(scores: Mapping[str, NDArray[np.float64]], densities: Sequence[float]) -> dict[str, list[int]]:
    names = list(scores)
    owner = np.repeat(np.arange(len(names)), [scores[name].size for name in names])
    pooled = np.concatenate([scores[name].reshape(-1) for name in names]) if names else np.zeros(0)
    ranked_owner = owner[np.argsort(-pooled, kind="stable")]
    counts: dict[str, list[int]] = {name: [] for name in names}
    for density in densities:
        kept = np.bincount(ranked_owner[: blocks_to_keep(density, pooled.size)], minlength=len(names))
        for index, name in enumerate(names):
            counts[name].append(max(1, int(kept[index])))
    return counts
