"""Budget: the number of blocks that each layer keeps at each level."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .argument import as_float, shown
from .errors import BudgetError
from .excerpt import excerpt

BUDGETS = ("uniform", "global", "erk")
BUDGET_BY = ("weights", "flops")
MAX_LEVELS = 32


@dataclass(frozen=True, slots=True)
class Budget:
    """Rule that divides the density of a level among the layers. `str()` describes it in words.

    name: "uniform": every layer has the density of the level. "global": one ranking over the blocks of all layers
        (global magnitude pruning). "erk": Erdős–Rényi-Kernel (RigL, arXiv:1911.11134): the density of a layer is
        proportional to the sum of the dimensions of its weight, divided by their product.
    by: unit of which a density is a share: "weights", or "flops", where a weight counts as often as it is multiplied.
        The rankings are the same; "uniform" gives the same result with both.
    min_layer_density: share of its blocks that every layer keeps at every level, whatever the rest of the budget says.
    positions: layer name to multiply-adds of each of its weights in one sample; used by "flops" only.

    Raises BudgetError.
    """

    name: str = "uniform"
    by: str = "weights"
    min_layer_density: float = 0.0
    positions: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the names and the range."""
        if self.name not in BUDGETS:
            raise BudgetError(f"budget {self.name!r} is not known; choose one of: {', '.join(BUDGETS)}")
        if self.by not in BUDGET_BY:
            raise BudgetError(f"budget_by {self.by!r} is not known; choose one of: {', '.join(BUDGET_BY)}")
        least = as_float(self.min_layer_density)
        if least is None or not 0.0 <= least <= 1.0:
            raise BudgetError(f"min_layer_density must lie in [0, 1], got {shown(self.min_layer_density)}")

    def __str__(self) -> str:
        """Words for the settings that differ from their defaults."""
        by = " by flops" if self.by == "flops" else ""
        least = f", at least {self.min_layer_density:g} of a layer" if self.min_layer_density else ""
        return f"{self.name}{by}{least}"

    def multiply_adds(self, layer: str) -> int:
        """Cost of one weight of `layer`. Raises BudgetError."""
        if self.by == "weights":
            return 1
        if layer not in self.positions:
            raise BudgetError(
                f"budget by flops: the multiply-adds of layer '{excerpt(layer)}' are not known; give its positions"
            )
        return self.positions[layer]


@dataclass(frozen=True, slots=True)
class LayerSize:
    """Facts of a layer, beside its scores, that a budget depends on.

    dimensions: shape of the weight, (O, C / groups, KH, KW) or (O, K). block_rows: V, the weights of a block.
    most: blocks that the pattern can keep, None for all. step: blocks that the pattern keeps or drops at a time.
    """

    dimensions: tuple[int, ...]
    block_rows: int = 1
    most: int | None = None
    step: int = 1


def blocks_to_keep(density: float, block_count: int) -> int:
    """Blocks that a density keeps: density × blocks, halves rounded up, at least one. All budgets round this way."""
    return max(1, min(block_count, math.floor(density * block_count + 0.5)))


def check_densities(densities: Sequence[float]) -> tuple[float, ...]:
    """The densities as floats, strictly rising in (0, 1]. Raises BudgetError."""
    try:
        given = None if isinstance(densities, str | bytes | Mapping) else list(densities)
    except TypeError:  # a single number, None
        given = None
    if given is None:
        raise BudgetError(
            f"densities: expected a list of numbers, one per level, e.g. (0.1, 0.5), got {shown(densities)}"
        )
    checked = tuple(number for density in given if (number := as_float(density)) is not None)
    if len(checked) < len(given):
        wrong = next(density for density in given if as_float(density) is None)
        raise BudgetError(f"densities: expected numbers in (0, 1], one per level, got {shown(wrong)} among them")
    if not 1 <= len(checked) <= MAX_LEVELS:
        raise BudgetError(f"densities: expected 1 to {MAX_LEVELS} of them, one per level, got {len(checked)}")
    if not all(0.0 < density <= 1.0 for density in checked):
        raise BudgetError(f"densities must lie in (0, 1], got {checked}")
    if any(low >= high for low, high in itertools.pairwise(checked)):
        raise BudgetError(f"densities must rise with the level (level 0 is the sparsest), got {checked}")
    return checked


def keep_counts(
    budget: Budget | str,
    scores: Mapping[str, NDArray[np.float64]],
    densities: Sequence[float],
    *,
    sizes: Mapping[str, LayerSize] | None = None,
    frozen: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, list[int]]:
    """Number of blocks that each layer keeps at each level.

    scores: layer name to its (G, K) block scores.
    sizes: layer name to its size. A layer that is left out is linear, of single weights, in the shape of its scores.
    frozen: layer name to the counts that levels 0, 1, … have already; their blocks must have the best scores. Where the
        counts of a level together meet its density, to within a block or a step of each layer, they stay, whatever the
        other scores are now.
    At least one block of a layer is kept, and no more than its pattern can keep. Within these bounds, "global" and
    "erk" meet the density of a level as a whole to within half a block for each layer ("global": to within one block).
    Counts never fall from one level to the next. Raises BudgetError.
    """
    budget = Budget(budget) if isinstance(budget, str) else budget
    levels = check_densities(densities)
    layers = [_layer(budget, name, score, (sizes or {}).get(name)) for name, score in scores.items()]
    if budget.name == "uniform":
        shares = [[density] * len(layers) for density in levels]
        counts = [_rounded(layers, each) for each in shares]
    elif budget.name == "erk":
        counts = [_rounded(layers, each) for each in _erk_shares(layers, levels)]
    else:
        counts = _global_counts(layers, levels, frozen or {})
    rising = np.maximum.accumulate(np.array(counts, np.int64).reshape(len(levels), len(layers)), axis=0)
    return {layer.name: rising[:, index].tolist() for index, layer in enumerate(layers)}


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer as a budget sees it.

    blocks: number of blocks. cost: cost of a block. least, most: bounds of the blocks kept.
    step: blocks kept or dropped at a time. erk: density of the layer before "erk" scales it.
    """

    name: str
    scores: NDArray[np.float64]
    blocks: int
    cost: float
    least: int
    most: int
    step: int
    erk: float


def _layer(budget: Budget, name: str, scores: NDArray[np.float64], size: LayerSize | None) -> _Layer:
    size = size or LayerSize(scores.shape)
    most = scores.size if size.most is None else min(size.most, scores.size)
    least = min(blocks_to_keep(budget.min_layer_density, scores.size), most)
    cost = float(size.block_rows * budget.multiply_adds(name))
    erk = sum(size.dimensions) / math.prod(size.dimensions)
    return _Layer(name, scores, blocks=scores.size, cost=cost, least=least, most=most, step=size.step, erk=erk)


def _rounded(layers: Sequence[_Layer], shares: Sequence[float]) -> list[int]:
    return [
        min(max(blocks_to_keep(share, layer.blocks), layer.least), layer.most)
        for layer, share in zip(layers, shares, strict=True)
    ]


def _erk_shares(layers: Sequence[_Layer], densities: Sequence[float]) -> list[list[float]]:
    """Density of each layer at each level: its `erk` times one factor, at which the whole has the density of the level.

    Each density is limited to the bounds of its layer. The whole therefore grows with the factor in straight lines
    between the factors at which some layer meets a bound, and the factor is interpolated between two of these.
    """
    if not layers:
        return [[] for _ in densities]
    raw, cost = np.array([layer.erk for layer in layers]), np.array([layer.cost * layer.blocks for layer in layers])
    least = np.array([layer.least / layer.blocks for layer in layers])
    most = np.array([layer.most / layer.blocks for layer in layers])
    factors = np.unique(np.concatenate([least / raw, most / raw]))
    kept = [float(cost @ np.clip(factor * raw, least, most)) for factor in factors]
    found = np.interp(np.array(densities) * cost.sum(), kept, factors)
    shares: list[list[float]] = np.clip(found[:, None] * raw, least, most).tolist()
    return shares


def _global_counts(
    layers: Sequence[_Layer], densities: Sequence[float], frozen: Mapping[str, Sequence[int]]
) -> list[list[int]]:
    """Counts at each level: the blocks that each layer must keep, then the best blocks of all layers.

    A block is kept as long as at least half of it fits into the density of the level.
    """
    if not layers:
        return [[] for _ in densities]
    owner, best, cost = (np.concatenate(parts) for parts in zip(*map(_ranked, range(len(layers)), layers), strict=True))
    order = np.argsort(-best, kind="stable")
    owner, cost = owner[order], cost[order]
    middle = np.cumsum(cost) - cost / 2
    whole = sum(layer.cost * layer.blocks for layer in layers)
    counts = []
    for level, density in enumerate(densities):
        kept = np.bincount(owner[: np.searchsorted(middle, density * whole, side="right")], minlength=len(layers))
        before = [frozen[layer.name][level] for layer in layers if level < len(frozen.get(layer.name, ()))]
        if len(before) == len(layers) and _meets(layers, before, density * whole):
            kept = np.array(before)
        counts.append([max(int(count), layer.least) for count, layer in zip(kept, layers, strict=True)])
    return counts


def _ranked(index: int, layer: _Layer) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """(index, score, cost) of each block that may be kept, best first, after those that must be kept."""
    best = -np.sort(-layer.scores.reshape(-1), kind="stable")[: layer.most]
    best[: layer.least] = np.inf
    return np.full(best.size, index), best, np.full(best.size, layer.cost)


def _meets(layers: Sequence[_Layer], counts: Sequence[int], target: float) -> bool:
    kept = sum(count * layer.cost for count, layer in zip(counts, layers, strict=True))
    step = sum(layer.cost * layer.step for layer in layers if layer.step > 1)
    return abs(kept - target) <= max(step, max(layer.cost for layer in layers)) / 2
