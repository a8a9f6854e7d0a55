"""Budget: the number of blocks that each layer keeps at each level."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .argument import as_float, shown
from .errors import BudgetError
from .excerpt import excerpt
from .latency import Latency
from .time_curve import TimeCurve

BUDGETS = ("uniform", "global", "erk")
BUDGET_BY = ("weights", "flops", "latency")
MAX_LEVELS = 32


@dataclass(frozen=True, slots=True)
class Budget:
    """Rule that divides the density of a level among the layers. `str()` describes it in words.

    name: "uniform": every layer has the density of the level. "global": one ranking over the blocks of all layers
        (global magnitude pruning). "erk": Erdős–Rényi-Kernel (RigL, arXiv:1911.11134): the density of a layer is
        proportional to the sum of the dimensions of its weight, divided by their product.
    by: unit of which a density is a share: "weights", or "flops", where a weight counts as often as it is multiplied.
        The rankings are the same; "uniform" gives the same result with both. "latency": a density stands for a time on
        a device. "global" then keeps the blocks with the most score for each millisecond, so that the sum of the scores
        kept is the largest that fits into the time.
    min_layer_density: share of its blocks that every layer keeps at every level, whatever the rest of the budget says.
    positions: layer name to multiply-adds of each of its weights in one sample; used by "flops" only.
    latency: the times of the levels and of each layer's weights; used by "latency" only.

    Raises BudgetError.
    """

    name: str = "uniform"
    by: str = "weights"
    min_layer_density: float = 0.0
    positions: Mapping[str, int] = field(default_factory=dict)
    latency: Latency | None = None

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
        by = "" if self.by == "weights" else f" by {self.by}"
        if self.latency is not None:
            by += f" of {', '.join(f'{ms:g}' for ms in self.latency.levels_ms)} ms"
        least = f", at least {self.min_layer_density:g} of a layer" if self.min_layer_density else ""
        return f"{self.name}{by}{least}"

    def weight_cost(self, layer: str) -> int:
        """Cost of each weight of `layer`: 1, or its multiply-adds. Raises BudgetError."""
        if self.by == "weights":
            return 1
        if layer not in self.positions:
            raise BudgetError(
                f"budget by flops: the multiply-adds of layer '{excerpt(layer)}' are not known; give its positions"
            )
        return self.positions[layer]

    def time_curve(self, layer: str) -> TimeCurve | None:
        """The time of `layer` over its kept weights, for a budget by latency; else None. Raises BudgetError."""
        if self.by != "latency":
            return None
        if self.latency is None or layer not in self.latency.curves:
            raise BudgetError(f"budget by latency: the time of layer '{excerpt(layer)}' is not known; give its costs")
        return self.latency.curves[layer]


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


def check_densities(densities: Sequence[float] | None) -> tuple[float, ...]:
    """The densities as floats, strictly rising in (0, 1]. Raises BudgetError."""
    try:
        given = None if densities is None or isinstance(densities, str | bytes | Mapping) else list(densities)
    except TypeError:  # a single number
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

    densities: with a budget by latency, numbers that stand for times (Latency).
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
    targets = _targets(budget, layers, levels)
    if budget.name == "uniform" and budget.latency is None:
        counts = [_rounded(layers, [density] * len(layers)) for density in levels]
    elif budget.name in ("uniform", "erk"):
        raw = [layer.erk if budget.name == "erk" else 1.0 for layer in layers]
        counts = [_rounded(layers, each) for each in _shares(layers, raw, targets)]
    else:
        counts = _global_counts(layers, targets, frozen or {}, per_cost=budget.latency is not None)
    rising = np.maximum.accumulate(np.array(counts, np.int64).reshape(len(levels), len(layers)), axis=0)
    return {layer.name: rising[:, index].tolist() for index, layer in enumerate(layers)}


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer as a budget sees it.

    blocks: number of blocks. block_rows: weights of a block. cost: cost of a weight, where no curve gives times.
    least, most: bounds of the blocks kept. step: blocks kept or dropped at a time. erk: density of the layer before
    "erk" scales it.
    """

    name: str
    scores: NDArray[np.float64]
    blocks: int
    block_rows: int
    cost: float
    curve: TimeCurve | None
    least: int
    most: int
    step: int
    erk: float

    def spent(self, blocks: ArrayLike) -> NDArray[np.float64]:
        """Cost of so many kept blocks; of none it is 0."""
        if self.curve is None:
            return np.asarray(np.asarray(blocks) * (self.block_rows * self.cost), np.float64)
        return self.curve.ms(np.asarray(blocks) * self.block_rows)

    @property
    def most_of_a_block(self) -> float:
        """Largest cost of one block: times rise ever faster, so that of the last one."""
        return float(self.spent(self.most) - self.spent(self.most - 1))


def _layer(budget: Budget, name: str, scores: NDArray[np.float64], size: LayerSize | None) -> _Layer:
    size, curve = size or LayerSize(scores.shape), budget.time_curve(name)
    most = scores.size if size.most is None else min(size.most, scores.size)
    return _Layer(
        name,
        scores,
        blocks=scores.size,
        block_rows=size.block_rows,
        cost=0.0 if curve else float(budget.weight_cost(name)),
        curve=curve,
        least=min(blocks_to_keep(budget.min_layer_density, scores.size), most),
        most=most,
        step=size.step,
        erk=sum(size.dimensions) / math.prod(size.dimensions),
    )


def _rounded(layers: Sequence[_Layer], shares: Sequence[float]) -> list[int]:
    return [
        min(max(blocks_to_keep(share, layer.blocks), layer.least), layer.most)
        for layer, share in zip(layers, shares, strict=True)
    ]


def _targets(budget: Budget, layers: Sequence[_Layer], densities: Sequence[float]) -> list[float]:
    """Cost that the kept blocks of all layers may have together at each level."""
    if budget.latency is not None:
        return [budget.latency.budget_ms(density) for density in densities]
    whole = sum(float(layer.spent(layer.blocks)) for layer in layers)
    return [density * whole for density in densities]


def _shares(layers: Sequence[_Layer], raw: Sequence[float], targets: Sequence[float]) -> list[list[float]]:
    """Density of each layer at each level: its `raw` density times one factor, at which the whole costs the target.

    Each density is limited to the bounds of its layer. The whole therefore grows with the factor in straight lines
    between the factors at which some layer meets a bound, or a knot of its times, and the factor is interpolated
    between two of these.
    """
    if not layers:
        return [[] for _ in targets]
    given = np.array(raw)
    least = np.array([layer.least / layer.blocks for layer in layers])
    most = np.array([layer.most / layer.blocks for layer in layers])
    bends = [
        at / (layer.block_rows * layer.blocks * each)
        for layer, each in zip(layers, raw, strict=True)
        for at, _ in (layer.curve.knots if layer.curve else ())
    ]
    factors = np.unique(np.concatenate([least / given, most / given, bends]))
    shares = np.clip(factors[:, None] * given, least, most)
    spent = sum(layer.spent(shares[:, index] * layer.blocks) for index, layer in enumerate(layers))
    found = np.interp(np.array(targets), np.asarray(spent), factors)
    chosen: list[list[float]] = np.clip(found[:, None] * given, least, most).tolist()
    return chosen


def _global_counts(
    layers: Sequence[_Layer], targets: Sequence[float], frozen: Mapping[str, Sequence[int]], *, per_cost: bool
) -> list[list[int]]:
    """Counts at each level: the blocks that each layer must keep, then the best blocks of all layers.

    A block is kept as long as at least half of it fits into the target. per_cost: whether blocks are ranked by their
    worth for each unit of cost, so that the blocks of frozen levels, too, must be kept before all others.
    """
    if not layers:
        return [[] for _ in targets]
    below = {layer.name: max(frozen.get(layer.name, [0]), default=0) if per_cost else 0 for layer in layers}
    rank = _Ranking(layers, [layer.least for layer in layers], per_cost=per_cost)
    above = _Ranking(layers, [max(layer.least, below[layer.name]) for layer in layers], per_cost=per_cost)
    counts = []
    for level, target in enumerate(targets):
        before = [frozen[layer.name][level] for layer in layers if level < len(frozen.get(layer.name, ()))]
        if len(before) == len(layers) and _meets(layers, before, target):
            kept = before
        else:
            kept = (rank if before else above).counts(target)
        counts.append([max(int(count), layer.least) for count, layer in zip(kept, layers, strict=True)])
    return counts


class _Ranking:
    """The blocks of all layers, best first, after those that each layer must keep.

    must: number of blocks that each layer must keep. per_cost: whether a block's rank is its score for a unit of cost.
    """

    def __init__(self, layers: Sequence[_Layer], must: Sequence[int], *, per_cost: bool) -> None:
        best = [np.sort(-layer.scores.reshape(-1), kind="stable")[: layer.most] for layer in layers]
        costs = [np.diff(layer.spent(np.arange(each.size + 1))) for layer, each in zip(layers, best, strict=True)]
        for each, cost, count in zip(best, costs, must, strict=True):
            if per_cost:
                each /= cost
            each[:count] = -np.inf
        order = np.argsort(np.concatenate(best), kind="stable")
        cost = np.concatenate(costs)[order]
        self._layers = len(layers)
        self._owner = np.repeat(np.arange(len(layers)), [each.size for each in best])[order]
        self._middle = np.cumsum(cost) - cost / 2

    def counts(self, target: float) -> list[int]:
        """Number of blocks of each layer among the best that cost `target` together."""
        kept = self._owner[: np.searchsorted(self._middle, target, side="right")]
        counts: list[int] = np.bincount(kept, minlength=self._layers).tolist()
        return counts


def _meets(layers: Sequence[_Layer], counts: Sequence[int], target: float) -> bool:
    kept = sum(float(layer.spent(count)) for count, layer in zip(counts, layers, strict=True))
    step = sum(layer.most_of_a_block * layer.step for layer in layers if layer.step > 1)
    return abs(kept - target) <= max(step, max(layer.most_of_a_block for layer in layers)) / 2
