"""Scenes: the settings of scenes that are composed of the items of IDX files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from nested_sparse.errors import TrainingError

from ..checked import is_count, require, require_count, require_one_of
from ..distributed import rank, world_size
from .images import hold_out, load_idx
from .scenes import MOST_OBJECTS, Items, SceneBatches
from .training_data import TrainingData

SCORED_BATCH = 50


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Scenes of the items of four IDX files, see `trainer/data/scenes.py`; for the task detection.

    Every epoch has new scenes of the training items. Scored scenes are of the test items, or of training items that are
    held out, and are the same for every [train] seed.
    """

    directory: Path
    """Folder of the files, relative to the current directory."""
    size: int = 64
    """Height and width of a scene, in pixels."""
    most: int = 4
    """Items of a scene, at most."""
    batch_size: int = 32
    epoch_scenes: int = 4000
    """Scenes in an epoch."""
    scored_scenes: int = 1000
    validation_items: int = 0
    """Number of training items held out, drawn by `seed`."""
    evaluate_on: str = ""
    """"validation" or "test"; by default scenes of the held-out items if there are any, else of the test items."""
    masks: bool = False
    """Whether the targets have the masks, too, for the task instance_segmentation."""
    seed: int = 0
    """Seed of the held-out items and of the scored scenes."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        for field, least in (("size", 1), ("batch_size", 1), ("epoch_scenes", 1), ("scored_scenes", 1), ("seed", 0)):
            require_count(self, field, least)
        require_count(self, "validation_items")
        require(self, "most", is_count(self.most, 1) and self.most <= MOST_OBJECTS, f"1 to {MOST_OBJECTS}")
        require(self, "masks", isinstance(self.masks, bool), "true or false")
        require_one_of(self, "evaluate_on", ("", "validation", "test"))
        held_out = self.evaluate_on != "validation" or self.validation_items > 0
        require(self, "evaluate_on", held_out, "'test', or validation_items above 0")
        divides = self.batch_size % world_size() == 0 and self.batch_size <= self.epoch_scenes
        require(self, "batch_size", divides, f"a multiple of the {world_size()} processes, at most epoch_scenes")

    def load(self, seed: int) -> TrainingData:
        """Read the items. seed: seed of the training scenes. Raises TrainingError."""
        train, test = (Items.of(each) for each in load_idx(self.directory))
        rest, held_out = hold_out(train, self.validation_items, self.seed)
        on_validation = self.validation_items > 0 and self.evaluate_on != "test"
        kept, items = train.at(rest), train.at(held_out) if on_validation else test
        for each in (kept, items):
            if not len(each):
                raise TrainingError(
                    f"{self.directory}: expected images to make scenes of, got none; fetch the files again"
                )
            height, width = each.pixels.shape[1:]
            require(
                self, "size", each.side <= self.size, f"{each.side} or more, for items of {height} × {width} pixels"
            )
        scored = SceneBatches(
            items, self.size, self.most, self.scored_scenes, SCORED_BATCH, (self.seed, 1), self.masks, even=False
        )

        def batches(epoch: int) -> SceneBatches:
            whole = SceneBatches(kept, self.size, self.most, self.epoch_scenes, self.batch_size, (seed, 0, epoch))
            return replace(whole, masks=self.masks, rank=rank(), world_size=world_size())

        facts = {
            "train_samples": self.epoch_scenes,
            "evaluated_on": "validation" if on_validation else "test",
            "evaluated_samples": self.scored_scenes,
            "classes": int(train.classes.max()) + 1,
            "channels": 1,
        }
        (example, _), *_ = replace(scored, count=1)
        return TrainingData(batches, lambda: scored, (example,), facts)
