"""Shapes: surfaces against the volumes that they enclose, and clouds with their parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nested_sparse.errors import TrainingError
from nested_sparse.trainer.data.datasets import Shapes
from nested_sparse.trainer.data.shapes import KINDS, MAKERS, PARTS, make_shapes
from nested_sparse.trainer.data.surfaces import Block, Revolved, Ring, Surface, box
from nested_sparse.trainer.recipes.recipe import load_recipe

SLANTED = [[2.0, 0.0, 0.3], [0.5, -1.0, 0.0], [0.0, 0.4, 1.5]]
CONE = [(0, 0), (2, 0), (0.5, 3), (0, 3)]
CLOSED: list[tuple[Surface, float, float]] = [
    (box((1, 2, 3), (1.0, 2.0, 0.5)), 7.0, 1.0),
    (Block((1, 0, -1), SLANTED), 2 * sum(math.hypot(*np.cross(SLANTED[i], SLANTED[i - 1])) for i in range(3)), 2.94),
    (Revolved(CONE, (0, 1, 2), 0), math.pi * (4 + 0.25 + 2.5 * math.hypot(1.5, 3)), math.pi * (4 + 1 + 0.25)),
    (Ring((1, 1, 1), 2.0, 0.7, 0, 2 * math.pi), 4 * math.pi**2 * 2 * 0.7, 2 * math.pi**2 * 2 * 0.49),
]


@pytest.mark.parametrize(("surface", "area", "volume"), CLOSED)
def test_points_lie_evenly_and_their_normals_look_outward(surface: Surface, area: float, volume: float) -> None:
    """By the divergence theorem: the integral of place times normal, of each axis, is the volume."""
    points, normals = surface.drawn(40000, np.random.default_rng(0))
    points = points - points.mean(0)
    assert surface.area == pytest.approx(area, rel=1e-9)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, rtol=1e-9)
    np.testing.assert_allclose(normals.mean(0), 0, atol=0.02)
    assert area * (points * normals).sum(1).mean() / 3 == pytest.approx(volume, rel=0.02)
    for axis in range(3):
        assert area * (points[:, axis] * normals[:, axis]).mean() == pytest.approx(volume, rel=0.04)


def test_a_part_of_a_ring_is_that_part() -> None:
    """Half of it, on one side of its middle, and half the area."""
    half = Ring((0, 0, 0), 2.0, 0.5, -math.pi / 2, math.pi / 2)
    points, _ = half.drawn(500, np.random.default_rng(0))
    assert (points[:, 0] >= -1e-9).all()
    assert half.area == pytest.approx(2 * math.pi**2 * 2 * 0.5)
    np.testing.assert_allclose(np.hypot(np.hypot(points[:, 0], points[:, 2]) - 2, points[:, 1]), 0.5, rtol=1e-9)


def test_a_disc_s_points_are_as_many_as_its_area_at_each_radius() -> None:
    """The square of the radius is even, also where the profile begins in the middle."""
    for profile in ([(0.0, 0.0), (2.0, 0.0)], [(2.0, 0.0), (0.0, 0.0)]):
        points, _ = Revolved(profile).drawn(4000, np.random.default_rng(1))
        shares = np.hypot(points[:, 0], points[:, 1]) ** 2 / 4
        np.testing.assert_allclose(np.quantile(shares, (0.1, 0.5, 0.9)), (0.1, 0.5, 0.9), atol=0.03)


def test_clouds_follow_from_their_seed() -> None:
    """Training and test clouds are others; more clouds do not change the first ones."""
    few, more, other = (make_shapes(n, points=40, seed=seed) for n, seed in ((5, (3, 0)), (10, (3, 0)), (5, (3, 1))))
    assert torch.equal(few.inputs, more.inputs[:5])
    assert torch.equal(few.labels, more.labels[:5])
    assert not torch.equal(few.inputs, other.inputs)
    train, test = Shapes(train_clouds=5, test_clouds=5, points=40, seed=3).read()
    assert torch.equal(train.inputs, few.inputs)
    assert torch.equal(test.inputs, other.inputs)


def test_a_cloud_has_the_parts_of_its_kind_alone() -> None:
    """Kinds take turns; each part comes up; the recipe's kinds are the data's."""
    made = make_shapes(60, points=100, seed=0)
    first = np.cumsum([0, *map(len, KINDS.values())])
    for index, labels in enumerate(made.labels):
        kind = index % len(KINDS)
        assert first[kind] <= int(labels.min())
        assert int(labels.max()) < first[kind + 1]
    assert sorted(set(made.labels.flatten().tolist())) == list(range(PARTS))
    recipe = load_recipe("shapes")
    assert recipe.tables["task"]["kinds"] == [len(parts) for parts in KINDS.values()]


def test_a_cloud_is_scaled_and_has_the_noise_it_says() -> None:
    """Without noise its mean is the middle, and its farthest point 0.8 to 1.25 away; a tabletop is above its legs."""
    clean = make_shapes(20, points=300, jitter=0, seed=1)
    assert clean.inputs.mean(2).abs().max() < 1e-5
    farthest = clean.inputs.norm(dim=1).amax(1)
    assert bool(((farthest > 0.8 - 1e-5) & (farthest < 1.25 + 1e-5)).all())
    lamp = next(i for i in range(2, 20, 5) if {6, 7, 8} <= set(clean.labels[i].tolist()))
    heights = [float(clean.inputs[lamp, 2][clean.labels[lamp] == part].mean()) for part in (6, 7, 8)]
    assert heights == sorted(heights)
    noisy = make_shapes(1, points=4000, jitter=0.02, outliers=0.25, one_sided=0, seed=2).inputs
    exact = make_shapes(1, points=4000, jitter=1e-9, outliers=0.25, one_sided=0, seed=2).inputs
    scale = float(exact.norm(dim=1).max())
    off = (noisy - exact) / scale
    assert float(off.std()) == pytest.approx(0.02 * math.sqrt(0.75 + 0.25 * 64), rel=0.1)


def test_a_cloud_of_one_side_lacks_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a ball's points the spread is the same in all directions; of a half's, in one direction half as large."""
    turns = np.linspace(-math.pi / 2, math.pi / 2, 30)
    ball = Revolved(list(zip(np.cos(turns), np.sin(turns), strict=True)))
    monkeypatch.setitem(MAKERS, "table", lambda rng: [("top", ball)])
    for share, expected in ((0.0, 1.0), (1.0, 0.5)):
        (cloud,) = make_shapes(1, points=2000, jitter=0, one_sided=share, seed=4).inputs
        largest, _, smallest = torch.linalg.svdvals(cloud).tolist()
        assert smallest / largest == pytest.approx(expected, abs=0.06)


def test_all_objects_have_enough_points_and_no_other_s_parts() -> None:
    """Also where few points look to the side."""
    clouds = make_shapes(40, points=6, jitter=0, one_sided=1, seed=4)
    assert clouds.inputs.shape == (40, 3, 6)
    assert bool(clouds.inputs.isfinite().all())
    for name, make in MAKERS.items():
        made = {part for seed in range(20) for part, _ in make(np.random.default_rng(seed))}
        assert made == set(KINDS[name])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"points": 0}, "points: expected a whole number >= 1, got 0"),
        ({"test_clouds": 0}, "test_clouds: expected a whole number >= 1"),
        ({"jitter": -0.1}, "jitter: expected >= 0, got -0.1"),
        ({"one_sided": 1.5}, r"one_sided: expected in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        Shapes(**settings)  # type: ignore[arg-type]
