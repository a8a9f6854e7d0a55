"""Recipes by latency: levels in milliseconds, and the costs that they need."""

from __future__ import annotations

from pathlib import Path

import pytest
from device_costs import imagined_costs
from tiny_recipe import TINY, tiny

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import TrainingError
from nested_sparse.trainer import nest
from nested_sparse.trainer.recipes.run import run_recipe
from nested_sparse.trainer.zoo import DigitNet

BY_LATENCY = TINY.replace("densities = [0.2, 0.6]", 'budget_by = "latency"\nlatency_ms = [10, 14]\ncosts = "{costs}"')
CLASSES = 10


def costs_of_digit_net(path: Path) -> Path:
    """Costs of the recipe's network."""
    path.write_text(imagined_costs(nest(DigitNet(classes=CLASSES, width=4), densities=(0.5,))).to_json())
    return path


def test_a_recipe_trains_levels_to_their_times(tmp_path: Path) -> None:
    """The file has as many levels as there are times; a number of epochs for each level is checked against them."""
    text = BY_LATENCY.format(costs=costs_of_digit_net(tmp_path / "costs.json"))
    run_recipe(tiny(tmp_path, text=text), tmp_path / "out")
    with Checkpoint.open(tmp_path / "out" / "tiny.safetensors") as checkpoint:
        low, high = checkpoint.levels
        assert low.density < high.density < 1.0
    with pytest.raises(TrainingError, match="epochs_per_level: expected one per level, 2 of them"):
        tiny(tmp_path, "nesting.epochs_per_level=[1]", text=text)


def test_times_from_the_command_line_take_the_place_of_densities(tmp_path: Path) -> None:
    """And the other way round, so that a row of a study needs no recipe of its own."""
    costs = costs_of_digit_net(tmp_path / "costs.json")
    by_latency = tiny(tmp_path, "nest.latency_ms=[3, 4]", "nest.budget_by=latency", f"nest.costs={costs}")
    assert by_latency.nest_options["latency_ms"] == (3.0, 4.0)
    assert "densities" not in by_latency.nest_options
    again = tiny(tmp_path, "nest.latency_ms=[3, 4]", "nest.densities=[0.1]")
    assert dict(again.nest_options) == {"densities": (0.1,)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TINY.replace("densities = [0.2, 0.6]", ""), r"\[nest\] densities is missing: expected a list, each a number"),
        (TINY.replace("densities", 'budget_by = "latency"\nlatency_m'), r"\[nest\] latency_ms is missing"),
        (BY_LATENCY.replace('costs = "{costs}"', ""), r'\[nest\] budget_by="latency" needs costs'),
        (TINY.replace("densities", 'dense_where = "slower"\ndensities'), r"\[nest\] dense_where='slower' needs costs"),
        (BY_LATENCY.format(costs="nowhere.json"), r"\[nest\] nowhere.json: cannot be read"),
        (BY_LATENCY.format(costs="tiny.toml"), r"\[nest\] .*tiny.toml: "),
    ],
)
def test_what_is_missing_is_named_before_data_is_loaded(tmp_path: Path, text: str, said: str) -> None:
    """The levels, and a file of costs that can be read."""
    with pytest.raises(TrainingError, match=said):
        tiny(tmp_path, text=text)
