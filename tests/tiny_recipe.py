"""TinyRecipe: a recipe that runs in seconds."""

from __future__ import annotations

from pathlib import Path

from nested_sparse.trainer.recipes.recipe import Recipe, load_recipe

TINY = """
[data]
name = "digits"
size = 8
train_samples = 96
validation_samples = 40
batch_size = 32
[model]
name = "digit_net"
width = 4
[nest]
densities = [0.2, 0.6]
[nesting]
name = "freeze_then_grow"
epochs_per_level = 1
[train]
dense_epochs = 1
search_epochs = 1
threads = 1
recalibration_samples = 32
"""


def tiny(folder: Path, *settings: str, text: str = TINY) -> Recipe:
    """The recipe in `folder`, with settings as --set takes them."""
    path = folder / "tiny.toml"
    path.write_text(text)
    return load_recipe(path, settings)
