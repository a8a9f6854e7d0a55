"""Budgets: compared with their definitions, which are computed in another way here."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nested_sparse.budget import Budget, LayerSize, blocks_to_keep, keep_counts
from nested_sparse.errors import BudgetError

DENSITIES = (0.05, 0.15, 0.4, 0.9)
SHAPES = {"stem": (16, 3, 3, 3), "wide": (64, 16, 3, 3), "one": (128, 64, 1, 1), "line": (32, 8, 5), "fc": (10, 128)}
POSITIONS = {"stem": 1024, "wide": 256, "one": 64, "line": 100, "fc": 1}


def layers(
    block_rows: int = 1, seed: int = 0, most: float = 1.0
) -> tuple[dict[str, NDArray[np.float64]], dict[str, LayerSize]]:
    """Random scores and sizes of SHAPES."""
    rng = np.random.default_rng(seed)
    scores, sizes = {}, {}
    for name, shape in SHAPES.items():
        groups, columns = -(-shape[0] // block_rows), int(np.prod(shape[1:]))
        scores[name] = rng.gamma(1.0, rng.uniform(0.3, 3.0), (groups, columns))
        sizes[name] = LayerSize(shape, block_rows, int(most * groups * columns))
    return scores, sizes


def erk_by_the_loop(density: float, costs: dict[str, float]) -> dict[str, float]:
    """RigL's own way: scale, make dense what exceeds 1, and begin again with the rest."""
    raw = {}
    for name, (n_out, n_in, *kernel) in SHAPES.items():
        raw[name] = (n_in + n_out + sum(kernel)) / (n_in * n_out * np.prod(kernel))
    weights = {name: costs[name] * np.prod(shape) for name, shape in SHAPES.items()}
    dense: set[str] = set()
    while True:
        left = density * sum(weights.values()) - sum(weights[name] for name in dense)
        epsilon = left / sum(raw[name] * weights[name] for name in SHAPES if name not in dense)
        over = {name for name in SHAPES if name not in dense and epsilon * raw[name] > 1}
        if not over:
            return {name: 1.0 if name in dense else epsilon * raw[name] for name in SHAPES}
        dense.add(max(over, key=lambda name: raw[name]))


@pytest.mark.parametrize("by", ["weights", "flops"])
def test_erk_is_the_formula_of_rigl(by: str) -> None:
    """Sum over product of the dimensions, one factor for all layers, dense ones aside; the whole has the density."""
    scores, sizes = layers()
    costs = {name: float(POSITIONS[name]) if by == "flops" else 1.0 for name in SHAPES}
    counts = keep_counts(Budget("erk", by, positions=POSITIONS), scores, DENSITIES, sizes=sizes)
    some_dense = False
    for level, density in enumerate(DENSITIES):
        shares = erk_by_the_loop(density, costs)
        some_dense |= 1.0 in shares.values()
        for name, share in shares.items():
            assert abs(counts[name][level] - share * scores[name].size) <= 0.5 + 1e-6
    assert some_dense


def test_erk_stays_below_what_a_pattern_can_keep() -> None:
    """Weights beyond a layer's limit go to the other layers, and the network still has the density."""
    scores, sizes = layers(most=0.7)
    counts = keep_counts("erk", scores, (0.2, 0.6), sizes=sizes)
    for level, density in enumerate((0.2, 0.6)):
        assert all(counts[name][level] <= int(0.7 * score.size) for name, score in scores.items())
        total = sum(count[level] for count in counts.values())
        assert abs(total - density * sum(score.size for score in scores.values())) <= len(scores)
    assert counts["fc"][1] == int(0.7 * scores["fc"].size)


@given(
    name=st.sampled_from(["uniform", "global", "erk"]),
    by=st.sampled_from(["weights", "flops"]),
    least=st.sampled_from([0.0, 0.02, 0.04]),
    block_rows=st.sampled_from([1, 4]),
    densities=st.lists(st.floats(0.05, 1.0), min_size=1, max_size=5, unique=True),
    seed=st.integers(0, 100),
)
def test_levels_have_their_density_and_never_fall(
    name: str, by: str, least: float, block_rows: int, densities: list[float], seed: int
) -> None:
    """Every budget: rising counts, the least of a layer, and the total, in weights or multiply-adds, of the level."""
    scores, sizes = layers(block_rows, seed)
    counts = keep_counts(Budget(name, by, least, POSITIONS), scores, sorted(densities), sizes=sizes)
    costs = {layer: POSITIONS[layer] if by == "flops" else 1 for layer in SHAPES}
    whole = sum(costs[layer] * score.size for layer, score in scores.items())
    for layer, kept in counts.items():
        assert kept == sorted(kept)
        assert kept[0] >= blocks_to_keep(least, scores[layer].size)
        assert kept[-1] <= scores[layer].size
    for level, density in enumerate(sorted(densities)):
        total = sum(costs[layer] * kept[level] for layer, kept in counts.items())
        if name == "global":  # or, were that over the density already, what every layer must keep
            assert abs(total - density * whole) <= max(costs.values()) / 2 + 1e-6
        else:  # half a block for the rounding of each layer, at most one where rounding comes to nothing
            assert abs(total - density * whole) <= sum(costs.values())


def test_global_by_flops_is_one_threshold() -> None:
    """The largest scores of all layers are kept, as with weights; only their number depends on the multiply-adds."""
    scores, sizes = layers()
    counts = keep_counts(Budget("global", "flops", positions=POSITIONS), scores, (0.3,), sizes=sizes)
    lowest_kept = min(np.sort(score.reshape(-1))[-counts[name][0]] for name, score in scores.items())
    highest_dropped = max(np.sort(score.reshape(-1))[-counts[name][0] - 1] for name, score in scores.items())
    assert lowest_kept >= highest_dropped
    assert counts != keep_counts("global", scores, (0.3,), sizes=sizes)


def test_uniform_is_the_same_by_weights_and_by_flops() -> None:
    """A layer's share of its weights is its share of its multiply-adds."""
    scores, sizes = layers()
    assert keep_counts("uniform", scores, DENSITIES, sizes=sizes) == keep_counts(
        Budget("uniform", "flops", positions=POSITIONS), scores, DENSITIES, sizes=sizes
    )


def test_the_least_of_a_layer_is_taken_from_the_others() -> None:
    """A layer whose scores are all low keeps its minimum at every level, and the total stays."""
    scores, sizes = layers()
    scores["wide"] *= 1e-6
    bare = keep_counts("global", scores, (0.1, 0.3), sizes=sizes)
    held = keep_counts(Budget("global", min_layer_density=0.08), scores, (0.1, 0.3), sizes=sizes)
    assert bare["wide"] == [1, 1]
    assert held["wide"] == [blocks_to_keep(0.08, scores["wide"].size)] * 2
    for level in (0, 1):
        assert sum(kept[level] for kept in held.values()) == sum(kept[level] for kept in bare.values())


@pytest.mark.parametrize("by", ["weights", "flops"])
@pytest.mark.parametrize("least", [0.0, 0.04])
@pytest.mark.parametrize("name", ["uniform", "global", "erk"])
def test_frozen_levels_keep_their_counts_when_other_scores_come(name: str, least: float, by: str) -> None:
    """Frozen blocks ranking first, in any order among themselves, the counts of their levels are what they were."""
    for seed in range(8):
        scores, sizes = layers(seed=seed)
        budget = Budget(name, by, least, POSITIONS)
        before = keep_counts(budget, scores, DENSITIES, sizes=sizes)
        rng, later = np.random.default_rng(seed + 1000), {}
        for layer, score in scores.items():
            rank = np.argsort(np.argsort(-score.reshape(-1)))
            frozen_level = sum((rank >= before[layer][level]).astype(int) for level in (0, 1))
            later[layer] = (rng.gamma(1.0, 1.0, score.size) / 1e3 + 2 - frozen_level).reshape(score.shape)
        frozen = {layer: kept[:2] for layer, kept in before.items()}
        after = keep_counts(budget, later, DENSITIES, sizes=sizes, frozen=frozen)
        for layer, kept in after.items():
            assert kept[:2] == before[layer][:2]
            assert kept == sorted(kept)


def test_a_frozen_set_of_another_density_is_chosen_from() -> None:
    """If the frozen set is larger than the level, the level keeps only the best of it."""
    scores, sizes = layers()
    wide = keep_counts("global", scores, (0.4,), sizes=sizes)
    counts = keep_counts("global", scores, (0.1, 0.6), sizes=sizes, frozen=wide)
    assert counts == keep_counts("global", scores, (0.1, 0.6), sizes=sizes)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "erk2"}, r"'erk2'.*uniform, global, erk"),
        ({"by": "macs"}, r"'macs'.*weights, flops"),
        ({"min_layer_density": 1.5}, r"\[0, 1\], got 1.5"),
    ],
)
def test_wrong_settings_are_named(arguments: dict[str, object], said: str) -> None:
    """Unknown names are answered with the allowed ones."""
    with pytest.raises(BudgetError, match=said):
        Budget(**arguments)  # type: ignore[arg-type]


def test_flops_need_positions() -> None:
    """A layer of which they are not known is named."""
    with pytest.raises(BudgetError, match="'fc'"):
        keep_counts(Budget("erk", "flops"), {"fc": np.ones((2, 2))}, (0.5,))


def test_a_budget_prints_the_options_that_were_set() -> None:
    """The text has only the options that were set."""
    assert str(Budget()) == "uniform"
    assert str(Budget("erk", "flops", 0.01)) == "erk by flops, at least 0.01 of a layer"
