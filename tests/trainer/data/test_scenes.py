"""Scenes: boxes and masks of the items, draws by seeds, parts of processes, and settings that cannot be."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_images import write_idx
from torch import Tensor

from nested_sparse.errors import TrainingError
from nested_sparse.trainer.data.scene_settings import Scenes
from nested_sparse.trainer.data.scenes import VISIBLE, Items, SceneBatches, composed


def write_items(folder: Path, count: int = 30) -> Path:
    """Four IDX files of 10 × 10 images: a bright rectangle, whose width tells its class. Test items are darker."""
    rng = np.random.default_rng(0)
    for part, number, grey in (("train", count, 250), ("t10k", 12, 120)):
        classes, images = np.arange(number) % 3, np.zeros((number, 10, 10), np.uint8)
        for image, each in zip(images, classes, strict=True):
            top = int(rng.integers(0, 3))
            image[top : top + 6, 1 : 4 + 3 * each] = grey
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", classes.astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the files."""
    return write_items(tmp_path_factory.mktemp("items"))


@pytest.fixture(scope="module")
def items() -> Items:
    """Solid squares of three sizes."""
    pixels = torch.zeros(3, 10, 10, dtype=torch.uint8)
    for index, each in enumerate(pixels):
        each[1 : 5 + 2 * index, 1 : 5 + 2 * index] = 255
    return Items(pixels, torch.arange(3))


def test_a_box_surrounds_the_visible_pixels_and_no_item_is_hidden(items: Items) -> None:
    """Every item that is there has most of its pixels, inside of its box and at each of its sides."""
    counts: Counter[int] = Counter()
    covered = 0
    for seed in range(60):
        scene = composed(items, 24, 5, np.random.default_rng(seed))
        counts[len(scene.classes)] += 1
        assert scene.image.dtype == np.float32
        assert 0 <= scene.image.min() <= scene.image.max() <= 1
        assert set(np.unique(scene.owners)) == set(range(len(scene.classes) + 1))
        table = scene.objects(7)
        assert (table[len(scene.classes) :] == -1).all()
        for index, (left, top, right, bottom, number) in enumerate(table[: len(scene.classes)].tolist()):
            mine = scene.owners == index + 1
            rows, columns = np.nonzero(mine)
            assert (left, top, right, bottom) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert number == scene.classes[index]
            assert mine.sum() >= VISIBLE * 0.8 * (bottom - top) * (right - left)  # squares, each cut at corners
            covered += int(mine.sum() < (bottom - top) * (right - left))
    assert set(counts) == {1, 2, 3, 4, 5}
    assert covered, "no item of the test covers another"


def test_items_lie_on_their_background(items: Items) -> None:
    """A white item's pixels are white where its mask is, but at its edge; the background is neither black nor even."""
    for seed in range(5):
        scene = composed(items, 24, 1, np.random.default_rng(seed))
        left, top, right, bottom, _ = scene.objects(1)[0]
        assert scene.image[top + 1 : bottom - 1, left + 1 : right - 1].min() > 0.98
        background = scene.image[scene.owners == 0]
        assert background.mean() < 0.75
        assert background.std() > 0.01


def test_scenes_are_drawn_by_their_seeds(folder: Path) -> None:
    """Equal in each reading; other epochs and other seeds have others; scored scenes are the same for each seed."""
    settings = Scenes(directory=folder, size=20, epoch_scenes=8, batch_size=4, scored_scenes=6)
    data, again, other = settings.load(0), settings.load(0), settings.load(1)

    def images(batches: Any) -> Tensor:
        return torch.cat([inputs for inputs, _ in batches])

    first = images(data.batches(0))
    assert first.shape == (8, 1, 20, 20)
    assert torch.equal(first, images(again.batches(0)))
    assert not torch.equal(first, images(data.batches(1)))
    assert not torch.equal(first, images(other.batches(0)))
    scored = images(data.scored())
    assert torch.equal(scored, images(other.scored()))
    assert len(scored) == 6
    assert torch.equal(data.example[0], scored[:1])
    assert not torch.equal(scored, images(replace(settings, seed=1).load(0).scored()))
    assert data.facts == {
        "train_samples": 8,
        "evaluated_on": "test",
        "evaluated_samples": 6,
        "classes": 3,
        "channels": 1,
    }


def test_training_and_scored_scenes_have_no_item_in_common(folder: Path) -> None:
    """Training items are bright, test items dark. Held-out items are training items, and scored by default."""
    settings = Scenes(directory=folder, size=20, epoch_scenes=8, batch_size=8, scored_scenes=8, most=2)
    ((train, _),), ((test, _),) = settings.load(0).batches(0), settings.load(0).scored()
    assert train.amax((1, 2, 3)).min() > 0.9 > test.amax((1, 2, 3)).max()
    held_out = replace(settings, validation_items=10).load(0)
    assert held_out.facts["evaluated_on"] == "validation"
    ((scored, _),) = held_out.scored()
    assert scored.amax((1, 2, 3)).min() > 0.9
    assert replace(settings, validation_items=10, evaluate_on="test").load(0).facts["evaluated_on"] == "test"


def test_masks_are_targets_on_demand(folder: Path) -> None:
    """A pixel's number is that of its row of objects; each object's box surrounds its pixels."""
    data = Scenes(directory=folder, size=20, epoch_scenes=4, batch_size=4, masks=True).load(0)
    ((_, (objects, owners)),) = data.batches(0)
    assert (objects.shape, objects.dtype) == ((4, 4, 5), torch.int64)
    assert (owners.shape, owners.dtype) == ((4, 20, 20), torch.uint8)
    for table, image in zip(objects, owners, strict=True):
        for index, (left, top, right, bottom, number) in enumerate(table.tolist()):
            mine = (image == index + 1).nonzero()
            assert (len(mine) > 0) == (number >= 0)
            if number >= 0:
                assert [*mine.min(0).values.tolist(), *(mine.max(0).values + 1).tolist()] == [top, left, bottom, right]


def test_processes_have_parts_of_each_batch(items: Items) -> None:
    """Together they have what one process has, in order; an incomplete batch is left out, or kept where all count."""
    whole = SceneBatches(items, 16, 2, count=10, batch_size=4, key=(0,))
    parts = [list(replace(whole, rank=rank, world_size=2)) for rank in range(2)]
    assert len(whole) == len(list(whole)) == 2
    for (images, objects), *halves in zip(whole, *parts, strict=True):
        assert torch.equal(images, torch.cat([half[0] for half in halves]))
        assert torch.equal(objects, torch.cat([half[1] for half in halves]))
    assert [len(images) for images, _ in replace(whole, even=False)] == [4, 4, 2]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": 12}, "size: expected 13 or more, for items of 10 × 10 pixels, got 12"),
        ({"most": 0}, "most: expected 1 to 100, got 0"),
        ({"batch_size": 9}, "batch_size: expected a multiple of the 1 processes, at most epoch_scenes, got 9"),
        ({"epoch_scenes": 0}, "epoch_scenes: expected a whole number >= 1"),
        ({"masks": 1}, "masks: expected true or false, got 1"),
        ({"evaluate_on": "validation"}, "evaluate_on: expected 'test', or validation_items above 0"),
        ({"validation_items": 30}, "30 samples cannot be held out of 30"),
    ],
)
def test_settings_that_cannot_be(folder: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        Scenes(**{"directory": folder, "size": 20, "epoch_scenes": 8, "batch_size": 4, **settings}).load(0)


def test_files_without_images_and_blank_images(tmp_path: Path, items: Items) -> None:
    """No image is an error; of a blank one no object is made, and its scene is scored as one without objects."""
    write_items(tmp_path)
    write_idx(tmp_path / "t10k-images-idx3-ubyte", np.zeros((0, 10, 10), np.uint8))
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(0, np.uint8))
    with pytest.raises(TrainingError, match="expected images to make scenes of, got none"):
        Scenes(directory=tmp_path, size=20).load(0)
    blank = Items(torch.zeros_like(items.pixels), items.classes)
    assert composed(blank, 20, 3, np.random.default_rng(0)).objects(3).tolist() == [[-1] * 5] * 3
